"""The cheapest mix of pools that meets a target, by simulating mixes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from math import ceil

import numpy as np
from numpy.typing import NDArray

from cluster.scaling import ScalingPolicy
from deployments.routing.predictions import estimate_work
from deployments.simulator.dispatch import CostDispatcher
from deployments.simulator.errors import PlanError
from deployments.simulator.plans import PoolPlan, ServicePlan, resize_pool
from deployments.simulator.report import Report, summarise
from deployments.simulator.simulation import Simulation
from deployments.simulator.traces import Trace

SHARES = (0.05, 0.25, 0.5, 0.75)
"""How much of the load the second pool of a pair is sized for, in either order."""

MAX_DESCENTS = 8
"""So often is one replica added to or taken from the cheapest mix, and the other pool sized again:
in a large cluster more would save little for their time."""

MAX_FACTOR = 4.0
"""No mix of more than so many times the bare load is tried."""

NOISE = 0.03
"""Standard deviation of the logarithm of a picture's denoising time."""

Counts = Mapping[str, int]
"""Replicas by the pool's name."""


@dataclass(frozen=True)
class Target:
    """What a mix must meet."""

    p95_s: float
    """In every minute of the trace."""
    attainment: float = 0.99
    max_utilization: float = 0.92
    """Of the denoisers' capacity: above, a queue that a longer trace would show may be growing."""

    def for_trace(self, trace: Trace) -> "Target":
        """Return it without a bound on utilization if no queue can grow past `p95_s`.

        That is so if all requests come within it: such a trace is not part of a longer one.
        """
        return replace(self, max_utilization=1.0) if trace.duration_s <= self.p95_s else self

    def is_met(self, report: Report) -> bool:
        """Whether it does."""
        is_fast = report.worst_p95_s <= self.p95_s and report.attainment >= self.attainment
        return is_fast and report.utilization <= self.max_utilization


@dataclass(frozen=True)
class Mix:
    """Pools of fixed size that meet a target."""

    counts: Counts
    report: Report
    price_per_hour: float
    """Of the denoisers."""


def size_plan(plan: ServicePlan, counts: Counts) -> ServicePlan:
    """Return the plan with pools of fixed size, without those of none."""
    pools = [
        resize_pool(pool, ScalingPolicy(counts[name], counts[name]))
        for pool in plan.pools
        if counts.get(name := pool.traits.name)
    ]
    return replace(plan, pools=tuple(pools))


def simulate_counts(plan: ServicePlan, counts: Counts, trace: Trace) -> Report:
    """Simulate pools of fixed size."""
    sized = size_plan(plan, counts)
    dispatcher = CostDispatcher(plan.routing)
    return summarise(Simulation(sized, trace, dispatcher, noise=NOISE).run())


def search_mix(plan: ServicePlan, trace: Trace, target: Target, tell: Callable[[str], None]) -> Mix:
    """Find the cheapest mix of at most two of the plan's pools.

    Args:
        plan: The pools on offer; their sizes are what is searched for.
        trace: The load.
        target: What the mix must meet.
        tell: Is given a line for each mix that was the cheapest so far.

    Raises:
        PlanError: If no mix of up to four times the bare load meets the target.
    """
    search = _Search(plan, trace, target.for_trace(trace), tell)
    for pool in plan.pools:
        search.size(pool, {})
    for first, second in permutations(plan.pools, 2):
        load = bare_load(second, trace, target.p95_s)
        for share in SHARES:
            search.size(first, {second.traits.name: ceil(share * load)})
    search.descend()
    best = search.best
    if best is None:
        raise PlanError(
            f"a mix must reach p95 {target.p95_s} s and {target.attainment:.0%} in time, "
            f"none of {[pool.traits.name for pool in plan.pools]} does"
        )
    return best


def bare_load(pool: PoolPlan, trace: Trace, least_s: float = 0.0) -> float:
    """Return how many replicas of the pool the trace would keep busy, if it drew everything.

    Args:
        pool: One of the pools.
        trace: The load.
        least_s: Time that the work may take where the trace is shorter.
    """
    return float(busy_by_kind(pool, trace).sum()) / max(trace.duration_s, least_s)


def busy_by_kind(pool: PoolPlan, trace: Trace) -> NDArray[np.float64]:
    """Return how long a replica is busy with each kind of request.

    Small pictures that share forwards do so without end: it is a lower bound.
    """
    counts = np.bincount(trace.kind_of, minlength=len(trace.kinds))
    works = [estimate_work(facts, pool.traits) for facts in trace.kinds]
    units = [work.units / work.num_forwards for work in works]
    busy_s = [
        work.num_forwards * (pool.forward_s(each) - pool.overhead_s(each))
        for work, each in zip(works, units, strict=True)
    ]
    return np.multiply(counts, busy_s, dtype=np.float64)


class _Search:
    """The cheapest mix so far, and how one is made cheaper."""

    def __init__(
        self, plan: ServicePlan, trace: Trace, target: Target, tell: Callable[[str], None]
    ) -> None:
        self.best: Mix | None = None
        self._plan = plan
        self._trace = trace
        self._target = target
        self._tell = tell
        self._span_s = max(trace.duration_s, target.p95_s)
        self._busy_s = {pool.traits.name: busy_by_kind(pool, trace) for pool in plan.pools}
        self._tried: dict[frozenset[tuple[str, int]], Mix | None] = {}

    def size(self, pool: PoolPlan, others: Counts) -> bool:
        """Find how few of a pool will do beside the others; return whether that is the cheapest."""
        mix = self._find_smallest(pool, others)
        if mix is None:
            return False
        self.best = mix
        self._tell(f"{format_counts(mix.counts)}: {mix.price_per_hour:,.2f} an hour")
        return True

    def descend(self) -> None:
        """Go from the cheapest mix to its neighbours, as long as one is cheaper."""
        for _ in range(MAX_DESCENTS):
            if not any(self.size(pool, others) for pool, others in self._neighbours()):
                return

    def _neighbours(self) -> Iterator[tuple[PoolPlan, Counts]]:
        counts = self.best.counts if self.best is not None else {}
        present = {name for name, count in counts.items() if count}
        for resized, other in permutations(self._plan.pools, 2):
            name = other.traits.name
            # A mix is of two pools at most.
            if present and present <= {resized.traits.name, name}:
                count = counts.get(name, 0)
                yield from ((resized, {name: near}) for near in (count + 1, count - 1) if near > 0)

    def _find_smallest(self, pool: PoolPlan, others: Counts) -> Mix | None:
        """Bisect on the size of one pool beside the others, below the price of the best mix."""
        low, high = self._bounds(pool, others)
        if low > high:
            return None
        found: Mix | None = None
        if self.best is not None:
            # Most mixes are no cheaper: the largest one below the best price tells.
            found = self._try(pool, others, high)
            if found is None:
                return None
            high -= 1
        while low <= high:
            # The answer is near the load: bisect from there, not from the middle.
            middle = min((low + high) // 2, ceil(low * 1.1))
            mix = self._try(pool, others, middle)
            if mix is None:
                low = middle + 1
            else:
                found, high = mix, middle - 1
        return found

    def _bounds(self, pool: PoolPlan, others: Counts) -> tuple[int, int]:
        # Arrivals come in no even stream, so a little less than must be busy in the mean is tried.
        low = int(0.95 * self._count_beside(pool, others))
        high = ceil(MAX_FACTOR * self._busy_s[pool.traits.name].sum() / self._span_s) + 1
        if self.best is not None:
            left = self.best.price_per_hour - _price(self._plan, others)
            high = min(high, _count_below(left, pool, most=high))
        return low, high

    def _count_beside(self, pool: PoolPlan, others: Counts) -> float:
        """Return how many of a pool are busy if the others draw what saves it most."""
        left_s = self._busy_s[pool.traits.name].copy()
        for name, count in others.items():
            other_s = self._busy_s[name]
            room_s = count * self._span_s * self._target.max_utilization
            drawn = np.flatnonzero(other_s)
            for kind in drawn[np.argsort(-left_s[drawn] / other_s[drawn])]:
                share = min(1.0, room_s / other_s[kind])
                left_s[kind] *= 1 - share
                room_s -= share * other_s[kind]
        return float(left_s.sum()) / self._span_s / self._target.max_utilization

    def _try(self, pool: PoolPlan, others: Counts, count: int) -> Mix | None:
        counts = {**others, pool.traits.name: count}
        present = frozenset((name, number) for name, number in counts.items() if number)
        if present not in self._tried:
            self._tried[present] = self._simulate(counts) if present else None
        return self._tried[present]

    def _simulate(self, counts: Counts) -> Mix | None:
        report = simulate_counts(self._plan, counts, self._trace)
        is_met = self._target.is_met(report)
        return Mix(counts, report, _price(self._plan, counts)) if is_met else None


def _count_below(price: float, pool: PoolPlan, *, most: int) -> int:
    """Return how many replicas cost less than that; of a pool that costs nothing, the most."""
    if price <= 0:
        return -1
    return ceil(price / pool.price_per_hour) - 1 if pool.price_per_hour else most


def _price(plan: ServicePlan, counts: Counts) -> float:
    return sum(pool.price_per_hour * counts.get(pool.traits.name, 0) for pool in plan.pools)


def format_counts(counts: Counts) -> str:
    """Say a mix in words."""
    return ", ".join(f"{count} x {name}" for name, count in counts.items() if count)
