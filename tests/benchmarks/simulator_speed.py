"""How long the simulator takes for a day's peak of a large service, on one core.

python tests/benchmarks/simulator_speed.py [--replicas 10000] [--requests 1000000]
"""

import argparse
import time

from cluster.accelerators import Precision
from cluster.profiles import CONSUMER_16GB, H800
from cluster.scaling import ScalingPolicy
from deployments.routing.decisions import RequestFacts
from deployments.routing.paths import RoutingPolicy
from deployments.simulator.dispatch import CostDispatcher
from deployments.simulator.plans import ServicePlan, plan_pool
from deployments.simulator.report import format_report, summarise
from deployments.simulator.search import NOISE
from deployments.simulator.simulation import Simulation
from deployments.simulator.stage_sizes import plan_stages
from deployments.simulator.traces import draw_trace, steady

MIX = {
    RequestFacts(512, 512, 8, timeout_s=60.0): 0.70,
    RequestFacts(1024, 1024, 8, timeout_s=60.0): 0.25,
    RequestFacts(2048, 2048, 8, timeout_s=60.0): 0.05,
}
UNITS_PER_REQUEST = 8 * (0.70 * 1.0 + 0.25 * 4.31 + 0.05 * 24.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    options = parser.parse_args()
    half = ScalingPolicy(options.replicas // 2, options.replicas // 2)
    pools = (
        plan_pool("H100", Precision.BF16, half, profile=H800),
        plan_pool("GeForce-RTX-4090", Precision.FP8, half, profile=CONSUMER_16GB),
    )
    capacity = sum(pool.units_per_s * pool.scaling.min_replicas for pool in pools)
    rate = 0.8 * capacity / UNITS_PER_REQUEST
    trace = draw_trace(steady(rate), options.requests / rate, MIX, seed=1)
    text_encoder, vae_decoder = plan_stages(trace, is_elastic=False)
    plan = ServicePlan(pools, text_encoder=text_encoder, vae_decoder=vae_decoder)
    begun = time.process_time()
    outcome = Simulation(plan, trace, CostDispatcher(RoutingPolicy()), noise=NOISE).run()
    elapsed_s = time.process_time() - begun
    print(
        f"{len(trace):,} requests on {options.replicas:,} replicas: {elapsed_s:.1f} s of one core"
    )
    for line in format_report(summarise(outcome)):
        print(line)


if __name__ == "__main__":
    main()
