"""A step loop behind a handle."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from cluster.rates import ReplicaRate
from deployments.backlog import ReplicaReport
from deployments.replica_report import to_report
from deployments.stages import Denoised, TileVelocity
from pipeline.denoising.roster import Backlog
from pipeline.denoising.work import Listener, Outcome, VelocityRequest, VelocityResult
from pipeline.errors import PipelineError
from pipeline.request import DenoiseRequest, DenoiseResult, StepEvent


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


@dataclass(frozen=True)
class PoolTerms:
    """What a replica knows of its pool."""

    pool: str
    guess: ReplicaRate
    """Its speed, until it has measured it."""
    max_backlog_units: float


class DenoiserDeployment:
    """Joins callers on the event loop to the thread that owns the device."""

    def __init__(
        self,
        load: Callable[[], tuple[StepLoop, str]],
        name_replica: Callable[[], str],
        terms: PoolTerms,
        start_reporter: Callable[[Callable[[int], ReplicaReport]], object] | None = None,
    ) -> None:
        self._step_loop, self._fingerprint = load()
        self._replica = name_replica()
        self._terms = terms
        # Kept, since the reporter ends with the object.
        self._reporter = start_reporter(self.report) if start_reporter is not None else None

    async def denoise(
        self, request: DenoiseRequest, *, yields_steps: bool
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        """Yield a `StepEvent` a step, if asked to, and the latents at the end.

        A caller that closes the generator, or is cancelled, lets the request go at the next step.
        """
        outcomes, listen = _listen()
        self._step_loop.submit(request, listen)
        try:
            while isinstance(outcome := await outcomes.get(), StepEvent):
                if yields_steps:
                    yield outcome
            if isinstance(outcome, PipelineError):
                raise outcome
            if not isinstance(outcome, DenoiseResult):
                raise TypeError(f"a picture must end in latents, got {type(outcome).__name__}")
            yield Denoised(outcome, self._fingerprint, self._replica)
        finally:
            self._step_loop.cancel(request.id)

    async def predict_velocity(self, request: VelocityRequest) -> TileVelocity:
        """Run one forward for a canvas that is stepped elsewhere."""
        outcomes, listen = _listen()
        self._step_loop.submit_velocity(request, listen)
        try:
            outcome = await outcomes.get()
        finally:
            self._step_loop.cancel(request.id)
        if isinstance(outcome, PipelineError):
            raise outcome
        if not isinstance(outcome, VelocityResult):
            raise TypeError(f"a forward must end in a velocity, got {type(outcome).__name__}")
        return TileVelocity(outcome.velocity, self._fingerprint, self._replica)

    def report(self, sequence: int) -> ReplicaReport:
        """Say what this replica holds, for the ledger."""
        return to_report(
            self._step_loop.backlog(),
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
        if self._step_loop.failure is not None:
            raise self._step_loop.failure


def _listen() -> tuple[asyncio.Queue[Outcome], Listener]:
    """Return a queue of this event loop, and what fills it from the step loop's thread."""
    loop = asyncio.get_running_loop()
    outcomes: asyncio.Queue[Outcome] = asyncio.Queue()

    def listen(outcome: Outcome) -> None:
        loop.call_soon_threadsafe(outcomes.put_nowait, outcome)

    return outcomes, listen
