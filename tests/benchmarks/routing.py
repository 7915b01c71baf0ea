"""Routing by cost against Ray's power of two choices and round robin, in the simulator.

    python tests/benchmarks/routing.py [--duration 600] [--load 0.85]

One mixed trace (70 % 512x512, 25 % 1024x1024, 5 % 2048x2048, eight steps) over a mixed cluster and
over big cards alone. The usual routers know neither sizes nor cards: over a mixed cluster they take
all replicas for one deployment. "cost, then two choices" is `choose_path` with Ray's own choice of
the replica within the pool.
"""

import argparse
from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from cluster.accelerators import Precision
from cluster.profiles import CONSUMER_16GB, H800
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

CLUSTERS: Final[Mapping[str, tuple[PoolPlan, ...]]] = {
    "8 x H100 bf16 and 24 x RTX 4090 fp8": (
        plan_pool("H100", Precision.BF16, ScalingPolicy(8, 8), profile=H800),
        plan_pool("GeForce-RTX-4090", Precision.FP8, ScalingPolicy(24, 24), profile=CONSUMER_16GB),
    ),
    "16 x H100 bf16": (plan_pool("H100", Precision.BF16, ScalingPolicy(16, 16), profile=H800),),
}

DISPATCHERS: Final[Mapping[str, Callable[[], Dispatcher]]] = {
    "cost": lambda: CostDispatcher(RoutingPolicy(), Random(1)),
    "cost, then least work": lambda: LeastWorkDispatcher(RoutingPolicy()),
    "two choices": lambda: TwoChoicesDispatcher(Random(1)),
    "round robin": RoundRobinDispatcher,
}


def simulate(
    pools: tuple[PoolPlan, ...], dispatcher: Dispatcher, load: float, duration_s: float
) -> Report:
    capacity = sum(pool.units_per_s * pool.scaling.min_replicas for pool in pools)
    rate = load * capacity / UNITS_PER_REQUEST
    trace = draw_trace(steady(rate), duration_s, MIX, seed=1)
    text_encoder, vae_decoder = plan_stages(trace, is_elastic=False)
    plan = ServicePlan(pools, text_encoder=text_encoder, vae_decoder=vae_decoder)
    return summarise(Simulation(plan, trace, dispatcher, noise=NOISE).run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, default=600.0, help="seconds")
    parser.add_argument("--load", type=float, default=0.85, help="share of all capacity")
    options = parser.parse_args()
    for name, pools in CLUSTERS.items():
        print(f"\n{name}, {options.load:.0%} load, {options.duration:.0f} s")
        print(f"{'':<24} {'p50 s':>7} {'p95 s':>7} {'p99 s':>7} {'in time':>8}   p95 by size")
        for label, build in DISPATCHERS.items():
            report = simulate(pools, build(), options.load, options.duration)
            by_size = ", ".join(f"{s} {p95:.2f}" for s, p95 in report.p95_by_size.items())
            print(
                f"{label:<24} {report.p50_s:>7.2f} {report.p95_s:>7.2f} {report.p99_s:>7.2f} "
                f"{report.attainment:>8.2%}   {by_size}"
            )


if __name__ == "__main__":
    main()
