"""What a replica's reports teach about its speed.

A size keeps a rate of its own: small forwards fill a GPU less well than large ones do (on one H200
at fp8 by a quarter between 512 and 1024 px), and by how much depends on the card and its kernels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cluster.errors import CapacityError

SMOOTHING: Final = 0.1
"""Weight of a report once ten have come; before, all weigh the same."""

MAX_LOG_RATIO: Final = math.log(8.0)
"""How far a report after the first may seem off: a page fault is no change of speed."""


@dataclass(frozen=True)
class SmoothedRate:
    """An exponential average of cost units a second.

    It is of logarithms, since twice as slow and twice as fast are equally far off.
    """

    units_per_s: float
    num_reports: int = 0
    trust: float = 1.0
    """How much of a time that they say is still believed; less the longer ago the last one is."""

    def observe(self, units_per_s: float) -> "SmoothedRate":
        """Take in one more rate."""
        off = math.log(units_per_s / self.units_per_s)
        weight = max(1 / (self.num_reports + 1), SMOOTHING)
        return SmoothedRate(self.units_per_s * math.exp(weight * off), self.num_reports + 1)


@dataclass(frozen=True)
class ReplicaRate:
    """How fast one replica runs, overall and by the size of a forward."""

    overall: SmoothedRate
    by_size: Mapping[int, SmoothedRate] = field(default_factory=dict)
    """Keyed by the logarithm to base 2 of the units of one forward, rounded."""

    def observe(self, units: float, num_forwards: int, run_s: float) -> "ReplicaRate":
        """Take in that `units` of work, in equal forwards, kept the replica busy for `run_s`.

        Raises:
            CapacityError: If any of them is not positive.
        """
        if units <= 0 or num_forwards <= 0 or run_s <= 0:
            raise CapacityError(
                f"a report must be positive, got {units} units, {num_forwards} forwards, {run_s} s"
            )
        size = size_class(units, num_forwards)
        expected = self.by_size.get(size, SmoothedRate(self.overall.units_per_s))
        rate = self._bound(units / run_s, expected)
        by_size = {**self.by_size, size: expected.observe(rate)}
        return ReplicaRate(self.overall.observe(rate), by_size)

    def _bound(self, units_per_s: float, expected: SmoothedRate) -> float:
        if not self.overall.num_reports:
            return units_per_s
        off = math.log(units_per_s / expected.units_per_s)
        bounded = max(-MAX_LOG_RATIO, min(MAX_LOG_RATIO, off))
        return expected.units_per_s * math.exp(bounded)

    def estimate_s(self, units: float, num_forwards: int) -> float:
        """Return the seconds that so much work, in equal forwards, would keep the replica busy."""
        rate = self.by_size.get(size_class(units, num_forwards), self.overall)
        return units / rate.units_per_s

    def least_s(self, units: float, num_forwards: int) -> float:
        """Return the seconds below which so much work cannot be done, as far as is known for sure.

        A forward takes no less time than a smaller one, so that smaller sizes bound larger ones.
        What was not drawn for long says little, and larger sizes say nothing: whoever is turned
        away by a slow moment leaves nobody to measure the next one by.
        """
        if not self.by_size:
            return self.overall.trust * units / self.overall.units_per_s if self._is_known else 0.0
        size = size_class(units, num_forwards)
        return max(
            (
                known.trust
                * num_forwards
                * _smaller_units(each, units / num_forwards)
                / known.units_per_s
                for each, known in self.by_size.items()
                if each <= size and known.num_reports
            ),
            default=0.0,
        )

    @property
    def _is_known(self) -> bool:
        return self.overall.num_reports > 0


def guess_rate(units_per_s: float) -> ReplicaRate:
    """Start from the accelerator type's rate, before any report."""
    return ReplicaRate(SmoothedRate(units_per_s))


def typical_rate(rates: Sequence[ReplicaRate], guess: ReplicaRate) -> ReplicaRate:
    """Return the rate of a replica of which nothing is known but its company.

    It is the geometric mean, of each size over those that have drawn it.
    """
    if not rates:
        return guess
    sizes = {size for rate in rates for size in rate.by_size}
    return ReplicaRate(
        _mean([rate.overall for rate in rates]),
        {size: _mean([r.by_size[size] for r in rates if size in r.by_size]) for size in sizes},
    )


def _mean(rates: Sequence[SmoothedRate]) -> SmoothedRate:
    mean = sum(math.log(rate.units_per_s) for rate in rates) / len(rates)
    return SmoothedRate(
        math.exp(mean),
        sum(rate.num_reports for rate in rates),
        max(rate.trust for rate in rates),
    )


def _smaller_units(size: int, units: float) -> float:
    """Return the smallest forward that may have been measured as this size, of at most `units`."""
    return units if size == size_class(units, 1) else 2.0 ** (size - 0.5)


def size_class(units: float, num_forwards: int) -> int:
    """Return the key of `ReplicaRate.by_size` that so much work, in equal forwards, falls under."""
    return round(math.log2(units / num_forwards))
