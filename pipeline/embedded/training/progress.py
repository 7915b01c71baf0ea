"""How far a run has come, from 0 to 1: by its steps, or by the clock over several commands."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[int], float]
"""Given the number of steps taken, says how far the run has come."""


def by_steps(steps: int) -> Progress:
    """Come to the end with the last of `steps`."""
    return lambda step: step / steps


@dataclass
class ByClock:
    """Goes on from `begun`, as a share, at the pace that takes `seconds` from 0 to 1."""

    begun: float
    seconds: float
    now: Callable[[], float] = time.monotonic
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.now()

    def __call__(self, _: int) -> float:
        """Return the share."""
        return min(1.0, self.begun + (self.now() - self._started) / self.seconds)


def to_the_end(begun: float, seconds_left: float) -> ByClock:
    """Come from `begun` to the end in the seconds that are left."""
    return ByClock(begun, seconds_left / max(1 - begun, 1e-6))
