"""Routing by cost against Ray's power of two choices and round robin, in the simulator.

    python tests/benchmarks/routing.py [--duration 300] [--loads 0.5 0.85] [--seeds 5]

One mixed load (70 % 512x512, 25 % 1024x1024, 5 % 2048x2048, eight steps) over mixed clusters and
over big cards alone, medians over several traces. "cost" is the service: `choose_path`, then Ray's
choice of two in a pool of whole pictures, turns in a tiled one; "cost, then least work" shows what
it would gain by the backlog of each replica. The usual routers know neither sizes nor cards: they
take all replicas for one deployment. Nothing is refused, and deadlines are looked at afterwards, so
that every picture counts. A load of 1 is what all cards do at once of pictures drawn whole.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import median
from typing import Final

from cluster.accelerators import Precision
from cluster.profiles import CONSUMER_16GB, H800, GpuProfile
from cluster.scaling import ScalingPolicy
from deployments.routing.decisions import RequestFacts
from deployments.routing.paths import RoutingPolicy
from deployments.simulator.dispatch import (
    CostDispatcher,
    Dispatcher,
    LeastWorkDispatcher,
    RoundRobinDispatcher,
    TwoChoicesDispatcher,
)
from deployments.simulator.plans import PoolPlan, ServicePlan, plan_pool
from deployments.simulator.report import Report, summarise
from deployments.simulator.search import NOISE
from deployments.simulator.simulation import Simulation
from deployments.simulator.stage_sizes import plan_stages
from deployments.simulator.traces import draw_trace, steady

MIX: Final = {
    RequestFacts(512, 512, 8, timeout_s=10.0): 0.70,
    RequestFacts(1024, 1024, 8, timeout_s=10.0): 0.25,
    RequestFacts(2048, 2048, 8, timeout_s=30.0): 0.05,
}
UNITS_PER_REQUEST: Final = 8 * (0.70 * 1.0 + 0.25 * 4.31 + 0.05 * 24.7)


def plan_fixed(accelerator: str, precision: Precision, count: int, profile: GpuProfile) -> PoolPlan:
    """Plan a pool of so many replicas, which takes whatever comes."""
    plan = plan_pool(accelerator, precision, ScalingPolicy(count, count), profile=profile)
    return replace(plan, traits=replace(plan.traits, max_held_units=1e6))


def _mix(big: str, num_big: int, small: str, num_small: int) -> tuple[PoolPlan, ...]:
    return (
        plan_fixed(big, Precision.BF16, num_big, H800),
        plan_fixed(small, Precision.FP8, num_small, CONSUMER_16GB),
    )


SMALLEST_MIX: Final = _mix("H200", 2, "GeForce-RTX-4080", 4)
CLUSTERS: Final[Mapping[str, tuple[PoolPlan, ...]]] = {
    "2 x H200 bf16 and 4 x RTX 4080 fp8": SMALLEST_MIX,
    "2 x H800 bf16 and 8 x RTX 4060 Ti fp8": _mix("H800", 2, "GeForce-RTX-4060-Ti", 8),
    "8 x H100 bf16 and 24 x RTX 4090 fp8": _mix("H100", 8, "GeForce-RTX-4090", 24),
    "16 x H100 bf16": (plan_fixed("H100", Precision.BF16, 16, H800),),
}

DISPATCHERS: Final[Mapping[str, Callable[[int], Dispatcher]]] = {
    "cost": lambda seed: CostDispatcher(RoutingPolicy(), Random(seed)),
    "cost, then least work": lambda _: LeastWorkDispatcher(RoutingPolicy()),
    "two choices": lambda seed: TwoChoicesDispatcher(Random(seed)),
    "round robin": lambda _: RoundRobinDispatcher(),
}


def simulate(
    pools: tuple[PoolPlan, ...],
    dispatcher: Dispatcher,
    load: float,
    duration_s: float,
    *,
    seed: int = 1,
) -> Report:
    """Send one trace, and look at deadlines afterwards."""
    trace = draw_trace(steady(to_rate(pools, load)), duration_s, MIX, seed=seed)
    patient = replace(trace, kinds=tuple(replace(kind, timeout_s=None) for kind in trace.kinds))
    text_encoder, vae_decoder = plan_stages(trace, is_elastic=False)
    plan = ServicePlan(pools, text_encoder=text_encoder, vae_decoder=vae_decoder)
    outcome = Simulation(plan, patient, dispatcher, noise=NOISE).run()
    return summarise(replace(outcome, trace=trace))


def to_rate(pools: tuple[PoolPlan, ...], load: float) -> float:
    """Return the requests a second of a load."""
    capacity = sum(pool.units_per_s * pool.scaling.min_replicas for pool in pools)
    return load * capacity / UNITS_PER_REQUEST


def print_header() -> None:
    names = "".join(f"{name:>8}" for name in ("p50 s", "p95 s", "from", "to", "p99 s"))
    print(f"{'':<28}{names} {'in time':>8}   p95 by size", flush=True)


def print_medians(label: str, reports: Sequence[Report]) -> None:
    """Print medians over several runs, and between what the 95th percentiles were."""
    p95 = sorted(report.p95_s for report in reports)
    by_size = ", ".join(
        f"{size} {median(report.p95_by_size[size] for report in reports):.2f}"
        for size in reports[0].p95_by_size
    )
    print(
        f"{label:<28} {median(report.p50_s for report in reports):>7.2f} {median(p95):>7.2f} "
        f"{p95[0]:>7.2f} {p95[-1]:>7.2f} {median(report.p99_s for report in reports):>7.2f} "
        f"{median(report.attainment for report in reports):>8.2%}   {by_size}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, default=300.0, help="seconds")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.85])
    parser.add_argument("--seeds", type=int, default=5, help="traces")
    options = parser.parse_args()
    seeds = range(1, options.seeds + 1)
    for name, pools in CLUSTERS.items():
        for load in options.loads:
            print(f"\n{name}, {load:.0%} load, {len(seeds)} traces of {options.duration:.0f} s")
            print_header()
            for label, build in DISPATCHERS.items():
                reports = [
                    simulate(pools, build(seed), load, options.duration, seed=seed)
                    for seed in seeds
                ]
                print_medians(label, reports)


if __name__ == "__main__":
    main()
