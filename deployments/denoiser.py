"""A step loop behind a handle."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from cluster.metrics import record
from cluster.rates import ReplicaRate
from cluster.spans import Carrier, is_sent_chosen
from cluster.telemetry import (
    ATTR_BATCH_SIZE,
    ATTR_COST_UNITS,
    ATTR_PATH,
    ATTR_POOL,
    ATTR_SHARE_S,
    ATTR_SIZE,
    ATTR_STEPS,
    BACKLOG_UNITS,
    QUEUE_AGE,
    TILES,
)
from deployments.backlog import ReplicaReport
from deployments.compute_threads import load_on_new_thread
from deployments.forward_watch import FollowedRequest, ForwardWatch
from deployments.replica_report import to_report
from deployments.stage_telemetry import StageRun, StageTelemetry
from deployments.stages import Denoised, TileVelocity, take_latents
from pipeline.denoising.forward_report import ForwardListener
from pipeline.denoising.roster import Backlog
from pipeline.denoising.work import Listener, Outcome, VelocityRequest, VelocityResult
from pipeline.errors import PipelineError
from pipeline.request import DenoiseRequest, DenoiseResult, StepEvent

T = TypeVar("T")


class StepLoop(Protocol):
    """What this deployment needs of `pipeline.denoising.engine.StepLoop`."""

    @property
    def failure(self) -> PipelineError | None:
        """Why the loop has stopped for good; None while it is well."""
        ...

    def submit(self, request: DenoiseRequest, listener: Listener) -> object:
        """Let a picture in; the listener is told by the loop's own thread."""
        ...

    def submit_velocity(self, request: VelocityRequest, listener: Listener) -> object:
        """Let one forward in; the listener is told by the loop's own thread."""
        ...

    def cancel(self, request_id: str) -> bool:
        """Let go of a request before the next step."""
        ...

    def backlog(self) -> Backlog:
        """Say what is held and how fast it goes."""
        ...

    def watch(self, on_forward: ForwardListener) -> None:
        """Tell `on_forward` of every later forward."""
        ...

    def close(self, timeout_s: float | None = None) -> bool:
        """Take nothing more in, and let go of what is not finished in time."""
        ...


@dataclass(frozen=True)
class PoolTerms:
    """What a replica knows of its pool."""

    pool: str
    guess: ReplicaRate
    """Its speed, until it has measured it."""
    max_backlog_units: float
    step_detail_ratio: float = 0.0
    """Part of the sampled traces that get an event a step."""


class DenoiserDeployment:
    """Joins callers on the event loop to the thread that owns the device."""

    def __init__(
        self,
        load: Callable[[], tuple[StepLoop, str]],
        name_replica: Callable[[], str],
        terms: PoolTerms,
        start_reporter: Callable[[Callable[[int], ReplicaReport]], object] | None = None,
        telemetry: StageTelemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or StageTelemetry("denoise")
        self._step_loop, self._fingerprint = self._telemetry.start(
            partial(load_on_new_thread, load)
        )
        self._replica = name_replica()
        self._terms = terms
        self._watch = ForwardWatch(
            terms.pool,
            detail_ratio=terms.step_detail_ratio,
            measures_at_once=start_reporter is None,
        )
        self._step_loop.watch(self._watch)
        self._call_numbers = itertools.count(1)
        # Kept, since the reporter ends with the object.
        self._reporter = start_reporter(self.report) if start_reporter is not None else None

    async def denoise(
        self, request: DenoiseRequest, *, yields_steps: bool, trace: Carrier | None = None
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        """Yield the steps that the request tells of, if asked to, and the latents at the end.

        A caller that closes the generator, or is cancelled, lets the request go at the next step.
        """
        request = replace(request, id=self._name_call(request.id))
        outcomes, listen = _listen(lambda event: yields_steps and request.tells(event))
        # A span ends before the last yield: there, whoever has the latents closes the generator.
        has_steps = is_sent_chosen(trace, self._terms.step_detail_ratio)
        with self._telemetry.span(trace, self._describe(request), has_more=has_steps) as stage:
            followed = self._watch.follow(request.id, stage.span)
            try:
                self._step_loop.submit(request, listen)
                try:
                    while isinstance(outcome := await outcomes.get(), StepEvent):
                        yield outcome
                finally:
                    self._step_loop.cancel(request.id)
                result = _expect(DenoiseResult, outcome)
                _tell(stage, result, followed)
            finally:
                self._watch.let_go(request.id, followed)
        yield Denoised(
            result,
            self._fingerprint,
            self._replica,
            followed.share_s,
            followed.peak_memory_bytes,
        )

    async def denoise_silently(
        self, request: DenoiseRequest, trace: Carrier | None = None
    ) -> Denoised:
        """Return the latents alone; over a handle one answer costs half of what a stream does."""
        return await take_latents(self.denoise(request, yields_steps=False, trace=trace))

    async def predict_velocity(
        self, request: VelocityRequest, trace: Carrier | None = None
    ) -> TileVelocity:
        """Run one forward for a canvas that is stepped elsewhere."""
        request = replace(request, id=self._name_call(request.id))
        outcomes, listen = _listen(lambda event: False)
        attributes, ratio = {ATTR_POOL: self._terms.pool}, self._terms.step_detail_ratio
        with self._telemetry.tile_span(trace, attributes, detail_ratio=ratio) as stage:
            followed = self._watch.follow(request.id, stage.span)
            try:
                self._step_loop.submit_velocity(request, listen)
                try:
                    outcome = await outcomes.get()
                finally:
                    self._step_loop.cancel(request.id)
                result = _expect(VelocityResult, outcome)
                _tell_share(stage, followed)
            finally:
                self._watch.let_go(request.id, followed)
        record(TILES, pool=self._terms.pool)
        return TileVelocity(
            result.velocity,
            self._fingerprint,
            self._replica,
            followed.share_s,
            followed.peak_memory_bytes,
        )

    def report(self, sequence: int) -> ReplicaReport:
        """Say what this replica holds, for the ledger and for the pool's metrics."""
        self._watch.measure()
        backlog = self._step_loop.backlog()
        held_units = backlog.waiting_units + backlog.running_units
        record(BACKLOG_UNITS, held_units, pool=self._terms.pool)
        record(QUEUE_AGE, backlog.oldest_wait_s, pool=self._terms.pool)
        return to_report(
            backlog,
            pool=self._terms.pool,
            replica_id=self._replica,
            sequence=sequence,
            guess=self._terms.guess,
            max_backlog_units=self._terms.max_backlog_units,
            is_healthy=self._step_loop.failure is None,
            fingerprint=self._fingerprint,
        )

    def check_health(self) -> None:
        """Tell Serve to replace this replica when its loop has stopped."""
        failure = self._step_loop.failure
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Let go of every request before the next step, and wait for the thread's end."""
        self._step_loop.close(timeout_s=0)

    def _name_call(self, request_id: str) -> str:
        """Tell a call from an earlier one of the same picture, which is let go a step late."""
        return f"{request_id}#{next(self._call_numbers)}"

    def _describe(self, request: DenoiseRequest) -> dict[str, str | int]:
        path = self._fingerprint.split("/", 1)[0]
        return {
            ATTR_POOL: self._terms.pool,
            ATTR_PATH: path,
            ATTR_SIZE: str(request.size),
            ATTR_STEPS: request.num_inference_steps,
        }


def _listen(is_wanted: Callable[[StepEvent], bool]) -> tuple[asyncio.Queue[Outcome], Listener]:
    """Return a queue of this event loop, and what fills it from the step loop's thread.

    A step that nobody wants wakes nobody.
    """
    loop = asyncio.get_running_loop()
    outcomes: asyncio.Queue[Outcome] = asyncio.Queue()

    def listen(outcome: Outcome) -> None:
        if not isinstance(outcome, StepEvent) or is_wanted(outcome):
            loop.call_soon_threadsafe(outcomes.put_nowait, outcome)

    return outcomes, listen


def _expect(kind: type[T], outcome: Outcome) -> T:
    """Return what a request must end in, or raise what it ended in instead."""
    if isinstance(outcome, PipelineError):
        raise outcome
    if not isinstance(outcome, kind):
        raise TypeError(f"a request must end in {kind.__name__}, got {type(outcome).__name__}")
    return outcome


def _tell(stage: StageRun, result: DenoiseResult, followed: FollowedRequest) -> None:
    stage.took(result.queue_s, result.run_s, followed.peak_memory_bytes)
    _tell_share(stage, followed)


def _tell_share(stage: StageRun, followed: FollowedRequest) -> None:
    stage.span.set_attributes(
        {
            ATTR_BATCH_SIZE: followed.mean_batch_size,
            ATTR_COST_UNITS: followed.units,
            ATTR_SHARE_S: followed.share_s,
        }
    )
