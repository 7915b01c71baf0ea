"""What a stream's reader has not taken yet, bounded whatever its pace. No I/O here."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from pipeline.request import StepEvent

MAX_PENDING_PREVIEWS: Final = 2
"""A reader in time has one at most; the second covers a hiccup."""


@dataclass(frozen=True)
class PendingStep:
    """A step to tell of."""

    event: StepEvent
    partial_image_index: int | None
    """The number of its preview, counted as they were made; None without one."""


class PendingSteps:
    """Keeps the newest step and the newest previews, and lets go of what is older.

    A picture that is drawn again, since its replica was lost, tells of steps that were told before;
    those are left out.
    """

    def __init__(self) -> None:
        self._steps: deque[PendingStep] = deque()
        self._num_previews = 0
        self._furthest = 0

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, event: StepEvent) -> None:
        """Add a step, in the place of one before it that nobody needs any more."""
        if event.step <= self._furthest:
            return
        self._furthest = event.step
        if self._steps and self._steps[-1].partial_image_index is None:
            self._steps.pop()
        index = None
        if event.preview is not None:
            index = self._num_previews
            self._num_previews += 1
        self._steps.append(PendingStep(event, index))
        previews = [step for step in self._steps if step.partial_image_index is not None]
        if len(previews) > MAX_PENDING_PREVIEWS:
            self._steps.remove(previews[0])

    def take(self) -> PendingStep | None:
        """Take the oldest step; None if there is none."""
        return self._steps.popleft() if self._steps else None
