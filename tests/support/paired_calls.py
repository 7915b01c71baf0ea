"""Two ways measured in turn, and how much more the one takes than the other.

In the order A B B A, so that neither always finds the other's caches and a machine that becomes
slower is slower for both. Medians and order statistics: one stray call moves neither.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_Z_95: Final = 1.96


@dataclass(frozen=True)
class PairedDifference:
    """The median of differences in pairs, and how sure it is."""

    num_pairs: int
    median: float
    low: float
    """Below it the true median is with a probability of 2.5 %."""
    high: float

    @property
    def standard_error(self) -> float:
        """Of the median, from its interval."""
        return (self.high - self.low) / (2 * _Z_95)

    def __str__(self) -> str:
        return (
            f"{self.median:+.2f} (95 %: {self.low:+.2f} to {self.high:+.2f}, "
            f"standard error {self.standard_error:.2f}) of {self.num_pairs} pairs"
        )


def measure_in_turn(
    ways: Mapping[str, Callable[[], float]], num_pairs: int, *, within_s: float = math.inf
) -> dict[str, list[float]]:
    """Measure two ways so often, or as often as there is time for."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    deadline = time.monotonic() + within_s
    for index in range(num_pairs):
        for name in list(ways) if index % 2 else reversed(list(ways)):
            measured[name].append(ways[name]())
        if time.monotonic() > deadline:
            break
    return measured


def compare_pairs(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """Say how much more `after` is; the interval is of order statistics, free of assumptions."""
    differences = sorted(b - a for a, b in zip(before, after, strict=True))
    count = len(differences)
    reach = _Z_95 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach))
    return PairedDifference(
        count, statistics.median(differences), differences[low], differences[high]
    )
