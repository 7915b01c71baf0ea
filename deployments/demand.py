"""What routers are asked for, by pool: the part of the ledger that replicas cannot know.

Pure data and arithmetic; the caller brings the time, of a clock that never goes back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, inf
from typing import Final

FAST_S: Final = 5.0
SLOW_S: Final = 60.0


@dataclass
class RateMeter:
    """Units a second by two exponential averages: a burst shows at once, and fades slowly.

    An average alone never fades to nothing, and who waits for that never lets the last replica go:
    where nothing has come for `SLOW_S`, the rate is zero.
    """

    begun_s: float
    """When it began to measure."""
    _fast: float = 0.0
    _slow: float = 0.0
    _last_s: float = -inf
    _last_added_s: float = -inf

    def add(self, units: float, now_s: float) -> None:
        """Count work that arrives."""
        self._decay(now_s)
        self._last_added_s = now_s
        self._fast += units / FAST_S
        self._slow += units / SLOW_S

    def units_per_s(self, now_s: float) -> float:
        """Return the rate, which is the higher of the two averages."""
        if now_s - self._last_added_s > SLOW_S:
            return 0.0
        self._decay(now_s)
        # An average over a minute that has seen ten seconds is too low by what it has not seen.
        seen = 1 - exp(-max(now_s - self.begun_s, FAST_S) / SLOW_S)
        return max(self._fast, self._slow / seen)

    def _decay(self, now_s: float) -> None:
        if now_s > self._last_s:
            self._fast *= exp((self._last_s - now_s) / FAST_S)
            self._slow *= exp((self._last_s - now_s) / SLOW_S)
            self._last_s = now_s


@dataclass(frozen=True)
class AskedOfPool:
    """What one router was asked to send to one pool."""

    arriving_units_per_s: float = 0.0
    refused_units_per_s: float = 0.0
    waiting_units: float = 0.0
    """Accepted for a pool without replicas."""


class PoolMeter:
    """Measures what a router is asked to send to one pool."""

    def __init__(self, begun_s: float) -> None:
        self._arriving = RateMeter(begun_s)
        self._refused = RateMeter(begun_s)
        self._waiting_units = 0.0

    def count_sent(self, units: float, now_s: float) -> None:
        """Count work that the pool was chosen for."""
        self._arriving.add(units, now_s)

    def count_refused(self, units: float, now_s: float) -> None:
        """Count work that would have gone to the pool, had it been up or had it had room.

        That is a refusal's `nearest`, and a choice's `wished`.
        """
        self._refused.add(units, now_s)

    def count_waiting(self, units: float) -> None:
        """Count work that begins (or, if negative, ends) to wait for the pool to start."""
        self._waiting_units = max(0.0, self._waiting_units + units)

    def read(self, now_s: float) -> AskedOfPool:
        """Return what to tell the ledger."""
        return AskedOfPool(
            arriving_units_per_s=self._arriving.units_per_s(now_s),
            refused_units_per_s=self._refused.units_per_s(now_s),
            waiting_units=self._waiting_units,
        )


@dataclass(frozen=True)
class DemandReport:
    """What one router tells the ledger of one pool."""

    pool: str
    router_id: str
    sequence: int
    asked: AskedOfPool


def sum_demand(reports: Iterable[DemandReport]) -> AskedOfPool:
    """Sum what routers were asked to send to one pool."""
    asked = [report.asked for report in reports]
    return AskedOfPool(
        arriving_units_per_s=sum(one.arriving_units_per_s for one in asked),
        refused_units_per_s=sum(one.refused_units_per_s for one in asked),
        waiting_units=sum(one.waiting_units for one in asked),
    )
