"""Listeners for a step loop's outcomes, and clocks that tests turn by hand."""

from collections.abc import Callable
from queue import SimpleQueue

from pipeline.denoising.work import Outcome, VelocityResult
from pipeline.errors import PipelineError
from pipeline.request import DenoiseResult, StepEvent


class Recorder:
    """Keeps what a listener is told, and acts at chosen steps in the loop's own thread."""

    def __init__(self, at_step: dict[int, Callable[[], object]] | None = None) -> None:
        self.events: list[StepEvent] = []
        self.at_step = {} if at_step is None else at_step
        self._last: SimpleQueue[DenoiseResult | VelocityResult | PipelineError] = SimpleQueue()

    def __call__(self, outcome: Outcome) -> None:
        if isinstance(outcome, StepEvent):
            self.events.append(outcome)
            self.at_step.get(outcome.step, lambda: None)()
        else:
            self._last.put(outcome)

    def last(self) -> DenoiseResult | VelocityResult | PipelineError:
        """Wait for the outcome that ends a request."""
        return self._last.get(timeout=60)

    def result(self) -> DenoiseResult:
        """Wait for the latents."""
        outcome = self.last()
        assert isinstance(outcome, DenoiseResult), outcome
        return outcome


class HandClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
