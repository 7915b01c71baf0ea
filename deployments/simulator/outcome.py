"""What a simulation leaves behind."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deployments.simulator.traces import Trace


@dataclass
class Series:
    """One part of the service over time, a value a tick."""

    name: str
    num_replicas: list[int] = field(default_factory=list)
    """Those that take work."""
    num_busy: list[float] = field(default_factory=list)
    backlog_s: list[float] = field(default_factory=list)


@dataclass
class PartBill:
    """What one part of the service was paid and used for."""

    name: str
    paid_s: float
    busy_s: float
    price_per_hour: float
    units_per_s: float = 0.0
    """Of one replica; 0 for a stage that is not measured in cost units."""

    @property
    def cost(self) -> float:
        """In the prices' currency."""
        return self.paid_s / 3600 * self.price_per_hour

    @property
    def utilization(self) -> float:
        """Share of the paid time that was busy."""
        return self.busy_s / self.paid_s if self.paid_s else 0.0


@dataclass
class Outcome:
    """What became of every request, and what it cost."""

    trace: Trace
    latency_s: NDArray[np.float64]
    """From arrival to answer; not a number for what was refused."""
    estimate_s: NDArray[np.float64]
    """What was predicted of it when it was routed, or not a number."""
    pool_of: NDArray[np.int16]
    """Index into `pool_names`, or -1."""
    pool_names: tuple[str, ...]
    refusals: Counter[str]
    bills: list[PartBill]
    ticks_s: list[float]
    series: list[Series]
    end_s: float
