"""What a step loop tells of each step that it ran."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.request import ImageSize


@dataclass(frozen=True)
class ForwardReport:
    """One step: its forwards, one after another. The tuples belong together, an entry an item."""

    ids: tuple[str, ...]
    units: tuple[float, ...]
    sizes: tuple[ImageSize, ...]
    seconds: float
    """Of the whole step, with what was prepared for it."""

    def shares_s(self) -> tuple[float, ...]:
        """Split the step's time among its items by their cost; the parts sum to the whole."""
        total = sum(self.units)
        return tuple(self.seconds * units / total for units in self.units)


ForwardListener = Callable[[ForwardReport], None]
"""Told of every step, by the loop's own thread: it must return at once and not raise."""
