"""The step loop: one thread that owns the device and serves all requests of a replica.

Before each step it lets go of who gave up, chooses who runs, runs one forward for them, and hands
out what they made. Requests join and leave between any two steps.
"""

import atexit
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import Final, TypeVar

import torch
from torch import Tensor

from pipeline.denoising.batching import (
    BatchingLimits,
    Candidate,
    Demand,
    choose_batch,
    choose_offloads,
    is_turn,
)
from pipeline.denoising.caching import ByteBoundedCache
from pipeline.denoising.captions import CaptionKey, CaptionState
from pipeline.denoising.forward_report import ForwardListener, ForwardReport
from pipeline.denoising.isolation import (
    IsolatedForward,
    LaunchedForward,
    describe_failure,
    let_go_of_tensors,
)
from pipeline.denoising.noise import NoiseSource
from pipeline.denoising.preview import LatentPreview
from pipeline.denoising.roster import Backlog, Roster, Ticket
from pipeline.denoising.transformer import PackedItem, PackedTransformer
from pipeline.denoising.work import (
    Admission,
    DenoisingRun,
    Listener,
    Outcome,
    Tell,
    VelocityCall,
    VelocityRequest,
    Work,
)
from pipeline.device_errors import is_device_lost
from pipeline.errors import (
    CancelledError,
    DeadlineError,
    InvalidRequestError,
    PipelineError,
    ReplicaFailedError,
)
from pipeline.request import LATENT_SCALE, DenoiseRequest, DenoiseResult, ImageSize, StepEvent
from pipeline.schedule import Schedule, build_schedule

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

_CAPTION_CACHE_BYTES: Final = 512 * 2**20

_AHEAD_UNITS: Final = 5.0
"""A longer step than that of a 1024x1024 keeps a GPU busy long enough, and who joins waits long."""

_EXIT_S: Final = 10.0
"""How long an exit waits for a step: a device that hangs never ends one."""

_MAX_STEP_S: Final = {"cuda": 600.0}
"""More than a step takes whose kernels are compiled in it: a device that hangs never ends one.

A CPU does not hang, and can take an hour for a step of a large model.
"""


@dataclass(frozen=True, eq=False)
class _RunningStep:
    """A step that the device may still run."""

    works: tuple[Work, ...]
    units: tuple[float, ...]
    sizes: tuple[ImageSize, ...]
    shares: bool
    """Whether its items share forwards."""
    tells: list[Tell | None]
    """None where there is no velocity."""
    forward: LaunchedForward
    begun_s: float


class StepLoop:
    """Denoises many requests at once. Any thread may call it.

    Where the device runs by itself (`runs_ahead`, by default on a GPU), a short step is launched
    before the one before it has ended, so that the device does not wait for the host: a step's
    outcomes are told one step later, and who joins waits for one short step more.

    Satisfies `pipeline.stages.Denoiser`.
    """

    def __init__(
        self,
        transformer: PackedTransformer,
        *,
        limits: BatchingLimits | None = None,
        preview: LatentPreview | None = None,
        schedule_of: Callable[[int], Schedule] = build_schedule,
        num_threads: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        runs_ahead: bool | None = None,
        max_step_s: float | None = None,
    ) -> None:
        self._transformer = transformer
        is_asynchronous = transformer.device.type == "cuda"
        self._runs_ahead = is_asynchronous if runs_ahead is None else runs_ahead
        self._running: _RunningStep | None = None
        self._steps_since_turn = 0
        self._ended_s = -math.inf
        self._step_begun_s: float | None = None
        self._max_step_s = max_step_s or _MAX_STEP_S.get(transformer.device.type, math.inf)
        self._forward = IsolatedForward(transformer, self._release_memory)
        self._limits = limits or BatchingLimits()
        self._preview = preview
        self._schedule_of = schedule_of
        self._num_threads = num_threads
        self._clock = clock
        self._captions: ByteBoundedCache[CaptionKey, CaptionState] = ByteBoundedCache(
            _CAPTION_CACHE_BYTES
        )
        self._unkept_captions: list[tuple[Admission, CaptionState]] = []
        self._noise = NoiseSource(transformer.device)
        self._roster = Roster(self._limits, clock)
        self._on_forward: ForwardListener = lambda report: None
        self._thread = threading.Thread(target=self._run, name="step-loop", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    @property
    def failure(self) -> ReplicaFailedError | None:
        """Why the loop has stopped for good, or hangs in a step; None while it is well."""
        begun_s = self._step_begun_s
        if self._roster.failure is not None or begun_s is None:
            return self._roster.failure
        age_s = self._clock() - begun_s
        if age_s <= self._max_step_s:
            return None
        return ReplicaFailedError(
            f"a step must end within {self._max_step_s:g} s, one runs for {age_s:.0f} s"
        )

    def denoise(
        self, request: DenoiseRequest, on_step: Callable[[StepEvent], None] | None = None
    ) -> DenoiseResult:
        """Draw one image's latents and wait for them.

        Raises:
            PipelineError: What `submit` raises, or what a listener would have been told.
        """
        outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.submit(request, outcomes.put)
        try:
            while isinstance(outcome := outcomes.get(), StepEvent):
                if on_step is not None:
                    on_step(outcome)
        except BaseException:
            self.cancel(request.id)
            raise
        if isinstance(outcome, DenoiseResult):
            return outcome
        if isinstance(outcome, PipelineError):
            raise outcome
        raise TypeError(f"a denoising run must end in a result, got {outcome!r}")

    def submit(self, request: DenoiseRequest, listener: Listener) -> Ticket:
        """Let a picture in; it takes its first step with the next forward.

        The listener is told a `StepEvent` a step and, last, a `DenoiseResult` or a `PipelineError`.

        Raises:
            InvalidRequestError: If the prompt embeddings have the wrong shape or the id is held.
            ReplicaFullError: If the loop holds too much, or is closing.
            DeadlineError: If the picture cannot be finished in time.
            ReplicaFailedError: If the loop has stopped.
        """
        embeds = request.encoding.prompt_embeds
        schedule = self._schedule_of(request.num_inference_steps)
        step_units = self._price(request.size, embeds)
        num_steps = schedule.num_inference_steps
        demand = Demand(step_units, num_steps, request.priority, request.timeout_s)

        def build(admission: Admission) -> Work:
            # Behind a step that runs, the loop's own thread has the time.
            noise = (
                self._noise.begin(request.size, seed=request.seed) if admission.found_idle else None
            )
            return DenoisingRun(admission, request, schedule, self._preview, noise)

        return self._roster.let_in(request.id, request.size, demand, embeds, listener, build)

    def submit_velocity(self, request: VelocityRequest, listener: Listener) -> Ticket:
        """Let one forward in; the listener is told a `VelocityResult` or a `PipelineError`.

        Raises:
            PipelineError: As `submit` does.
        """
        shape, embeds = request.latents.shape, request.encoding.prompt_embeds
        if len(shape) != 4 or shape[0] != 1:
            raise InvalidRequestError(f"latents must be [1, 16, h, w], got {list(shape)}")
        size = ImageSize(shape[2] * LATENT_SCALE, shape[3] * LATENT_SCALE)
        demand = Demand(self._price(size, embeds), 1, request.priority, request.timeout_s)

        def build(admission: Admission) -> Work:
            return VelocityCall(admission, request)

        return self._roster.let_in(request.id, size, demand, embeds, listener, build)

    def cancel(self, request_id: str) -> bool:
        """Let go of a request before the next step; its listener is told `CancelledError`.

        Returns:
            Whether the request was held.
        """
        return self._roster.cancel(request_id)

    def backlog(self) -> Backlog:
        """Say what is held and how fast it goes."""
        return self._roster.backlog()

    def watch(self, on_forward: ForwardListener) -> None:
        """Tell `on_forward` of every later forward, before its items' own listeners."""
        self._on_forward = on_forward

    def close(self, timeout_s: float | None = None) -> bool:
        """Take nothing more in, and finish what is held.

        Returns:
            Whether all of it was finished; what was not is told `CancelledError`.
        """
        self._roster.close()
        self._thread.join(timeout_s)
        is_drained = not self._thread.is_alive()
        if not is_drained:
            self._roster.stop()
            self._thread.join()
        atexit.unregister(self._end)
        return is_drained and self.failure is None

    def _end(self) -> None:
        """Stop before the interpreter does: it would end a thread in the midst of a step."""
        self._roster.close()
        self._roster.stop()
        self._thread.join(_EXIT_S)

    def _release_memory(self) -> None:
        self._captions.clear()
        self._transformer.release_memory()

    def _price(self, size: ImageSize, prompt_embeds: Tensor) -> float:
        self._transformer.check_prompt(prompt_embeds)
        num_tokens = prompt_embeds.shape[0]
        return self._transformer.cost.units(size.num_image_tokens, num_tokens)

    def _run(self) -> None:
        try:
            if self._num_threads is not None:
                # Threads split the sums of a matrix product: a fixed count keeps their bytes.
                torch.set_num_threads(self._num_threads)
            while self._roster.await_work():
                self._step_begun_s = self._clock()
                self._take_step()
                self._step_begun_s = None
            for work in self._roster.works():
                self._leave(work, CancelledError("the replica closed before the last step"))
        except BaseException as exc:
            # The thread ends here, and everyone who waits must hear of it.
            failure = ReplicaFailedError(f"the step loop stopped: {type(exc).__name__}: {exc}")
            self._roster.fail(failure)
            for work in self._roster.works():
                self._leave(work, failure)
            raise
        finally:
            self._noise.close()

    def _take_step(self) -> None:
        self._let_go()
        waiting = {work.id: work for work in self._roster.works() if work.steps_left}
        if not waiting:
            self._settle()
            return
        step_units = min(self._limits.step_units, self._forward.max_units)
        candidates = self._to_candidates(list(waiting.values()))
        chosen = choose_batch(
            candidates,
            replace(self._limits, step_units=step_units),
            steps_since_turn=self._steps_since_turn,
            now_s=self._clock(),
            rate_units_s=self._roster.rate_units_s,
        )
        has_turn = is_turn(chosen, candidates)
        self._steps_since_turn = 0 if has_turn else self._steps_since_turn + 1
        running = [waiting.pop(candidate.id) for candidate in chosen]
        self._pass_over(list(waiting.values()))
        launched = self._launch(running)
        self._keep_captions()
        self._settle()
        self._running = launched
        if launched and not self._may_run_on(launched):
            self._settle()

    def _to_candidates(self, works: Sequence[Work]) -> list[Candidate]:
        rate = self._roster.rate_units_s
        return [work.to_candidate(rate, self._limits) for work in works]

    def _may_run_on(self, step: "_RunningStep") -> bool:
        """Say whether the next step may be launched before this one has ended.

        Not where one has failed, which would be launched again, and not where nobody is left who
        would settle it.
        """
        is_short = sum(step.units) <= _AHEAD_UNITS
        has_failed = any(isinstance(each, PipelineError) for each in step.forward.velocities)
        is_wanted = any(not work.is_gone for work in step.works)
        return self._runs_ahead and is_short and not has_failed and is_wanted

    def _let_go(self) -> None:
        for work in self._roster.take_cancelled():
            self._leave(work, CancelledError("the request was cancelled"))
        now_s = self._clock()
        for work in self._roster.works():
            if now_s > work.admission.deadline_s:
                self._leave(work, _expiry_of(work))

    def _pass_over(self, paused: Sequence[Work]) -> None:
        for work in paused:
            work.passed_over += 1
        holding = {work.id: work for work in paused if work.device_bytes}
        sizes = [work.device_bytes for work in holding.values()]
        candidates = self._to_candidates(list(holding.values()))
        for candidate in choose_offloads(list(zip(candidates, sizes, strict=True)), self._limits):
            self._offload(holding[candidate.id])

    def _offload(self, work: Work) -> None:
        try:
            work.offload()
        except Exception as exc:
            if is_device_lost(exc):
                raise
            # A bound on memory is not worth a picture.
            _logger.warning("latents of %s stay on the device: %s", work.id, describe_failure(exc))

    def _launch(self, running: Sequence[Work]) -> "_RunningStep | None":
        begun_s = self._clock()
        prepared = [(work, item) for work in running if (item := self._prepare(work, begun_s))]
        if not prepared:
            return None
        works, items = zip(*prepared, strict=True)
        units = tuple(work.admission.demand.step_units for work in works)
        forward = self._forward.launch(items, units)
        tells = [
            self._attempt(work, partial(work.take, velocity))
            if isinstance(velocity, Tensor)
            else None
            for work, velocity in zip(works, forward.velocities, strict=True)
        ]
        forward.end()
        sizes = tuple(_size_of(item) for item in items)
        # An item that failed may be of no shape that the transformer knows.
        is_whole = all(isinstance(velocity, Tensor) for velocity in forward.velocities)
        shares = is_whole and not any(map(self._transformer.runs_apart, items))
        return _RunningStep(works, units, sizes, shares, tells, forward, begun_s)

    def _settle(self) -> None:
        """Wait for the step that runs, and tell what it made."""
        step, self._running = self._running, None
        if step is None:
            return
        velocities = step.forward.wait()
        begun_s = max(step.begun_s, self._ended_s)
        ended_s = self._ended_s = self._clock()
        # Measured before anyone is told, so that whoever hears of a step finds its rate.
        # A forward that failed may have ended early, or have been run again in parts.
        if all(isinstance(velocity, Tensor) for velocity in velocities):
            seconds = ended_s - begun_s
            self._roster.measure(step.sizes, sum(step.units), seconds, shares=step.shares)
        ids = tuple(work.id for work in step.works)
        self._on_forward(ForwardReport(ids, step.units, step.sizes, ended_s - begun_s))
        for work, tell, velocity in zip(step.works, step.tells, velocities, strict=True):
            if not work.is_gone:
                self._deliver(work, tell, velocity, ended_s)

    def _prepare(self, work: Work, now_s: float) -> PackedItem | None:
        work.passed_over = 0
        if work.started_s is None:
            work.started_s = now_s
        return self._attempt(work, lambda: self._next_item(work))

    def _next_item(self, work: Work) -> PackedItem:
        if work.caption is None:
            work.caption = self._encode_caption(work)
        return work.next_item(work.caption)

    def _attempt(self, work: Work, act: Callable[[], _T]) -> _T | None:
        """Do what one request needs; if that fails the request leaves, and no other does.

        Where memory was short it is done once more, so `act` changes nothing until it has all.

        Raises:
            torch.AcceleratorError: If the device itself failed; nothing can run on it any more.
        """
        try:
            try:
                return act()
            except (torch.OutOfMemoryError, torch.AcceleratorError) as exc:
                if is_device_lost(exc):
                    raise
                let_go_of_tensors(exc)
            self._release_memory()
            return act()
        except Exception as exc:
            if is_device_lost(exc):
                raise
            self._leave(work, describe_failure(exc))
            return None

    def _encode_caption(self, work: Work) -> CaptionState:
        admission = work.admission

        def encode() -> CaptionState:
            return self._transformer.encode_caption(admission.prompt_embeds)

        if self._runs_ahead and work.starts_idle_device:
            # The device would wait for the key, which takes the host as long as the caption does.
            caption = encode()
            self._unkept_captions.append((admission, caption))
            return caption
        return self._captions.get_or_make(admission.caption_key, encode)

    def _keep_captions(self) -> None:
        """Keep those whose keys could wait until the device has a forward to run."""
        while self._unkept_captions:
            admission, caption = self._unkept_captions.pop()
            self._captions.keep(admission.caption_key, caption)

    def _deliver(
        self, work: Work, tell: Tell | None, velocity: Tensor | PipelineError, now_s: float
    ) -> None:
        if isinstance(velocity, PipelineError):
            self._leave(work, velocity)
            return
        outcomes = None if tell is None else self._attempt(work, partial(tell, now_s))
        if outcomes is None:
            return
        if all(isinstance(outcome, StepEvent) for outcome in outcomes):
            self._tell(work, outcomes)
        else:
            self._leave(work, *outcomes)

    def _leave(self, work: Work, *outcomes: Outcome) -> None:
        work.is_gone = True
        work.let_go()
        self._roster.remove(work)
        self._tell(work, outcomes)

    def _tell(self, work: Work, outcomes: Sequence[Outcome]) -> None:
        try:
            for outcome in outcomes:
                work.admission.listener(outcome)
        except Exception:
            # Its own code failed, so there is nobody left to tell.
            _logger.exception("the listener of %s failed, and its request is dropped", work.id)
            work.is_gone = True
            self._roster.remove(work)


def _expiry_of(work: Work) -> DeadlineError:
    demand = work.admission.demand
    return DeadlineError(
        f"the picture must be finished within the {demand.timeout_s:.2f} s left on arrival, "
        f"{work.steps_left} of {demand.num_steps} steps are left"
    )


def _size_of(item: PackedItem) -> ImageSize:
    _, height, width = item.latents.shape
    return ImageSize(height * LATENT_SCALE, width * LATENT_SCALE)
