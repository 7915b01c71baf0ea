"""Requests over time: made from a rate, or read from a file (`trace_file`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi

import numpy as np
from numpy.typing import NDArray

from deployments.routing.decisions import RequestFacts
from deployments.simulator.errors import PlanError

SLOT_S = 0.1
"""A rate is constant for this long."""

Rate = Callable[[float], float]
"""Requests a second, by the time in seconds."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival.

    Raises:
        PlanError: If they are not in order.
    """

    times_s: NDArray[np.float64]
    kind_of: NDArray[np.int32]
    """Index into `kinds`."""
    kinds: tuple[RequestFacts, ...]

    def __post_init__(self) -> None:
        if len(self.times_s) != len(self.kind_of):
            raise PlanError(
                f"a trace must have a kind for each time, "
                f"got {len(self.kind_of)} for {len(self.times_s)}"
            )
        if np.any(np.diff(self.times_s) < 0):
            raise PlanError("times of a trace must not go back")

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def duration_s(self) -> float:
        """Until the last arrival."""
        return float(self.times_s[-1]) if len(self) else 0.0


def draw_trace(
    rate: Rate, duration_s: float, mix: Mapping[RequestFacts, float], *, seed: int
) -> Trace:
    """Draw a Poisson process whose rate varies, each request of a kind drawn from `mix`."""
    draws = np.random.default_rng(seed)
    slots = np.arange(0.0, duration_s, SLOT_S)
    expected = np.array([rate(slot + SLOT_S / 2) for slot in slots]) * SLOT_S
    times = np.repeat(slots, draws.poisson(expected))
    times = np.sort(times + draws.uniform(0.0, SLOT_S, len(times)))
    weights = np.array(list(mix.values()), dtype=np.float64)
    kind_of = draws.choice(len(weights), size=len(times), p=weights / weights.sum())
    return Trace(times, kind_of.astype(np.int32), tuple(mix))


def steady(per_s: float) -> Rate:
    """Return a rate that does not change."""
    return lambda _: per_s


def burst(per_s: float, *, factor: float, begin_s: float, duration_s: float) -> Rate:
    """Return a rate that is `factor` times as high for a while."""
    end_s = begin_s + duration_s
    return lambda time_s: per_s * (factor if begin_s <= time_s < end_s else 1.0)


def diurnal(mean_per_s: float, *, swing: float, period_s: float = 86_400.0) -> Rate:
    """Return a rate that goes from `1 - swing` of its mean (at first) to `1 + swing` and back."""
    return lambda time_s: mean_per_s * (1 - swing * cos(2 * pi * time_s / period_s))
