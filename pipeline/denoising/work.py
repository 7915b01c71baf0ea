"""What the step loop holds of one request, and how it goes from step to step.

The loop knows `Work`: something with a next forward. A `DenoisingRun` steps its own latents through
a schedule; a `VelocityCall` is one forward for a scheduler elsewhere (the canvas of a tiled image).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from pipeline.denoising.batching import (
    BatchingLimits,
    Candidate,
    Demand,
    HeldWork,
    due_time,
)
from pipeline.denoising.captions import CaptionKey, CaptionState, identify_caption
from pipeline.denoising.noise import NoiseAhead
from pipeline.denoising.positions import WHOLE_CANVAS, PositionGrid
from pipeline.denoising.preview import LatentPreview, choose_preview_steps, previews_may_fail
from pipeline.denoising.transformer import PackedItem
from pipeline.device import begin_copy_to_host
from pipeline.errors import PipelineError
from pipeline.latents import draw_noise
from pipeline.request import DenoiseRequest, DenoiseResult, Priority, PromptEncoding, StepEvent
from pipeline.schedule import Schedule
from pipeline.tensor_pickling import PicklesTensors


@dataclass(frozen=True)
class VelocityRequest(PicklesTensors):
    """One forward asked of a step loop."""

    id: str
    encoding: PromptEncoding
    latents: Tensor = field(compare=False)
    """[1, 16, h, w] float32."""
    model_time: float
    positions: PositionGrid = WHOLE_CANVAS
    priority: Priority = Priority.INTERACTIVE
    timeout_s: float | None = None
    later_units: float = 0.0
    """Its part of what the picture's later steps cost. They will be asked for, so they count as
    backlog; they are not held here, so nothing is refused for them."""


@dataclass(frozen=True)
class VelocityResult(PicklesTensors):
    """What one forward predicted."""

    velocity: Tensor = field(compare=False)
    """[1, 16, h, w] float32 on the CPU, its sign as `Schedule.advance` takes it."""


Outcome = StepEvent | DenoiseResult | VelocityResult | PipelineError
Tell = Callable[[float], list[Outcome]]
"""Makes a step's outcomes when its forward has ended, at the given time on the loop's clock."""

Listener = Callable[[Outcome], None]
"""Told of every outcome, by the loop's own thread: it must return at once."""


@dataclass(frozen=True, eq=False)
class Admission:
    """The terms under which a request was let in."""

    id: str
    demand: Demand
    prompt_embeds: Tensor
    arrival: int
    arrived_s: float
    deadline_s: float
    """On the loop's clock; infinite when there is none."""
    listener: Listener
    found_idle: bool = False
    """Whether nothing else was held when it came."""

    @cached_property
    def caption_key(self) -> CaptionKey:
        """What its caption is kept under, computed when it is first asked for."""
        return identify_caption(self.prompt_embeds)


class Work(ABC):
    """One admitted request. The loop's thread owns it."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.caption: CaptionState | None = None
        self.passed_over = 0
        self.started_s: float | None = None
        self.is_gone = False
        """Whether the listener has been told the last."""

    @property
    def starts_idle_device(self) -> bool:
        """Whether the device has nothing else to do before its first forward.

        False for a forward of many that follow one another: between two of them all is idle.
        """
        return False

    @property
    def id(self) -> str:
        """The request's id."""
        return self.admission.id

    @property
    @abstractmethod
    def steps_left(self) -> int:
        """Forwards that remain."""

    @abstractmethod
    def next_item(self, caption: CaptionState) -> PackedItem:
        """Return what the next forward needs."""

    @abstractmethod
    def take(self, velocity: Tensor) -> Tell:
        """Use what a forward predicts, which may still run on the device.

        What raises has changed nothing.
        """

    @property
    @abstractmethod
    def device_bytes(self) -> int:
        """Bytes of state that a paused request keeps on the device."""

    @abstractmethod
    def offload(self) -> None:
        """Move that state to host memory; the next forward brings it back."""

    @abstractmethod
    def let_go(self) -> None:
        """End what goes on for it elsewhere: no forward follows."""

    def due_s(self, rate_units_s: float | None, limits: BatchingLimits) -> float:
        """Return when this work is due at such a rate, on the loop's clock."""
        terms = self.admission
        return due_time(
            terms.demand, rate_units_s=rate_units_s, arrived_s=terms.arrived_s, limits=limits
        )

    def to_candidate(self, rate_units_s: float | None, limits: BatchingLimits) -> Candidate:
        """Describe this work to `choose_batch`."""
        terms = self.admission
        demand = terms.demand
        return Candidate(
            terms.id,
            demand.step_units,
            demand.priority,
            self.due_s(rate_units_s, limits),
            terms.arrival,
            self.passed_over,
            self.steps_left,
            terms.deadline_s,
        )

    @property
    def backlog_units(self) -> float:
        """Cost of what is left, here and elsewhere."""
        return self.admission.demand.step_units * self.steps_left

    def to_held(self, rate_units_s: float | None, limits: BatchingLimits) -> HeldWork:
        """Describe this work to `admit`."""
        demand = self.admission.demand
        return HeldWork(
            demand.step_units * self.steps_left,
            demand.priority,
            self.due_s(rate_units_s, limits),
            demand.share_s * self.steps_left,
        )


class DenoisingRun(Work):
    """All steps of one picture."""

    def __init__(
        self,
        admission: Admission,
        request: DenoiseRequest,
        schedule: Schedule,
        preview: LatentPreview | None,
        noise: NoiseAhead | None = None,
    ) -> None:
        """Take the request, and its noise if that is drawn ahead."""
        super().__init__(admission)
        self._request = request
        self._schedule = schedule
        self._preview = preview
        self._preview_steps = choose_preview_steps(
            request.num_inference_steps, request.num_previews
        )
        self._noise = noise
        self._latents: Tensor | None = None
        self._step = 0

    @property
    def starts_idle_device(self) -> bool:
        """Whether nothing else was held when it came."""
        return self.admission.found_idle

    @property
    def steps_left(self) -> int:
        """Forwards that remain."""
        return self._schedule.num_inference_steps - self._step

    @property
    def device_bytes(self) -> int:
        """Bytes of latents, once they are drawn and while they are not in host memory."""
        if self._latents is None or self._latents.device.type == "cpu":
            return 0
        return self._latents.nbytes

    def offload(self) -> None:
        """Move the latents to host memory."""
        if self._latents is not None:
            self._latents = self._latents.cpu()

    def let_go(self) -> None:
        """Draw no noise that nobody asked for yet."""
        if self._noise is not None:
            self._noise.drop()

    def next_item(self, caption: CaptionState) -> PackedItem:
        """Draw the noise before the first step, and bring the latents to the device."""
        latents = self._draw() if self._latents is None else self._latents
        self._latents = latents.to(caption.rows.device, non_blocking=latents.is_pinned())
        self._noise = None
        return PackedItem(self._latents, self._schedule.model_time(self._step), caption)

    def _draw(self) -> Tensor:
        if self._noise is not None:
            return self._noise.take()
        return draw_noise(self._request.size, seed=self._request.seed)[0]

    def take(self, velocity: Tensor) -> Tell:
        """Take an Euler step."""
        if self._latents is None:
            raise PipelineError("a step needs latents, and this run has drawn none")
        before, sigma = self._latents, self._schedule.sigmas[self._step]
        after = self._schedule.advance(before, velocity, self._step)
        step = self._step + 1
        # Both are asked for now, or they would wait behind whatever step is launched next.
        is_last = step == self._schedule.num_inference_steps
        drawn = begin_copy_to_host(after) if is_last else None
        preview = self._begin_preview(step, before, sigma, velocity)
        self._latents, self._step = after, step

        def tell(now_s: float) -> list[Outcome]:
            outcomes: list[Outcome] = [self._event(step, preview)]
            if drawn is not None:
                outcomes.append(self._result(drawn, now_s))
            return outcomes

        return tell

    def _begin_preview(
        self, step: int, before: Tensor, sigma: float, velocity: Tensor
    ) -> Tensor | None:
        if self._preview is None or step not in self._preview_steps:
            return None
        with previews_may_fail(self.id):
            predicted = before - sigma * velocity
            return begin_copy_to_host(self._preview.draw_on_device(predicted))
        return None

    def _event(self, step: int, preview: Tensor | None) -> StepEvent:
        return StepEvent(
            step=step,
            num_inference_steps=self._schedule.num_inference_steps,
            sigma=self._schedule.sigmas[step],
            preview=None if preview is None else preview.clone(),
        )

    def _result(self, latents: Tensor, now_s: float) -> DenoiseResult:
        arrived_s = self.admission.arrived_s
        started_s = arrived_s if self.started_s is None else self.started_s
        return DenoiseResult(
            latents.unsqueeze(0), queue_s=started_s - arrived_s, run_s=now_s - started_s
        )


class VelocityCall(Work):
    """One forward."""

    def __init__(self, admission: Admission, request: VelocityRequest) -> None:
        super().__init__(admission)
        self._request = request
        self._is_done = False

    @property
    def steps_left(self) -> int:
        """One until the forward is done."""
        return 0 if self._is_done else 1

    @property
    def backlog_units(self) -> float:
        """Cost of this forward, and of the picture's later ones."""
        return super().backlog_units + self._request.later_units

    @property
    def device_bytes(self) -> int:
        """None: it cannot be paused between two steps."""
        return 0

    def offload(self) -> None:
        """Do nothing: the latents were given in host memory."""

    def let_go(self) -> None:
        """Do nothing: nothing goes on elsewhere."""

    def next_item(self, caption: CaptionState) -> PackedItem:
        """Bring the given latents to the device."""
        request = self._request
        latents = request.latents[0].to(caption.rows.device)
        return PackedItem(latents, request.model_time, caption, request.positions)

    def take(self, velocity: Tensor) -> Tell:
        """Hand the velocity over."""
        self._is_done = True
        predicted = begin_copy_to_host(velocity)
        return lambda now_s: [VelocityResult(predicted.clone().unsqueeze(0))]
