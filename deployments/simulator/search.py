"""The cheapest mix of pools that meets a target, by simulating mixes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil

import numpy as np

from cluster.scaling import ScalingPolicy
from deployments.routing.predictions import estimate_work
from deployments.simulator.dispatch import CostDispatcher
from deployments.simulator.errors import PlanError
from deployments.simulator.plans import PoolPlan, ServicePlan, resize_pool
from deployments.simulator.report import Report, summarise
from deployments.simulator.simulation import Simulation
from deployments.simulator.traces import Trace

SHARES = (0.0, 0.25, 0.5, 0.75)
"""How much of the load the second pool of a pair is sized for; 0 is the first pool alone."""

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
    target = target.for_trace(trace)
    best: Mix | None = None
    for first, second, share in _directions(plan.pools):
        load = bare_load(second, trace, target.p95_s)
        least = {second.traits.name: ceil(share * load)} if share else {}
        mix = _find_smallest(plan, trace, target, first, least, share, best)
        if mix is not None:
            best = mix
            tell(f"{format_counts(mix.counts)}: {mix.price_per_hour:,.2f} an hour")
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
    counts = np.bincount(trace.kind_of, minlength=len(trace.kinds))
    works = [estimate_work(facts, pool.traits) for facts in trace.kinds]
    busy_s = [work.num_forwards * pool.forward_s(work.units / work.num_forwards) for work in works]
    return float(np.dot(counts, busy_s)) / max(trace.duration_s, least_s)


def _directions(pools: Sequence[PoolPlan]) -> Iterator[tuple[PoolPlan, PoolPlan, float]]:
    for pool in pools:
        yield pool, pool, 0.0
    for one, other in combinations(pools, 2):
        for share in SHARES[1:]:
            yield one, other, share


def _find_smallest(
    plan: ServicePlan,
    trace: Trace,
    target: Target,
    pool: PoolPlan,
    others: Counts,
    share: float,
    best: Mix | None,
) -> Mix | None:
    """Bisect on the size of one pool beside the others, below the price of the best mix."""
    load = bare_load(pool, trace, target.p95_s)
    # The others are sized for their share of the bare load; the rest must stay below the target's
    # utilization. A little less is tried too: tiles and full images do not cost the same.
    rest = max(0.0, 1 / target.max_utilization - share)
    low, high = int(0.95 * rest * load), ceil(MAX_FACTOR * load) + 1
    if best is not None:
        left = best.price_per_hour - _price(plan, others)
        high = min(high, _count_below(left, pool, most=high))
    found: Mix | None = None
    while low <= high:
        # The answer is near the load: bisect from there, not from the middle.
        middle = min((low + high) // 2, ceil(low * 1.1))
        counts = {**others, pool.traits.name: middle}
        report = simulate_counts(plan, counts, trace) if sum(counts.values()) else None
        if report is not None and target.is_met(report):
            found = Mix(counts, report, _price(plan, counts))
            high = middle - 1
        else:
            low = middle + 1
    return found


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
