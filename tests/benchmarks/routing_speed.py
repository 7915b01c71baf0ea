"""How many choices of path and replica a second of one core makes, over 100 replicas.

python tests/benchmarks/routing_speed.py
"""

import random
import time
from dataclasses import replace

from cluster.rates import guess_rate
from deployments.backlog import AgedReport, ReplicaReport, summarise_pool
from deployments.routing.decisions import Choice, RequestFacts
from deployments.routing.paths import RoutingPolicy, choose_path
from deployments.routing.pools import PoolState, PoolTraits, build_state
from deployments.routing.replicas import choose_replica
from pipeline.request import RenderPath

POLICY = RoutingPolicy()
BIG = PoolTraits("h800", RenderPath.FULL_IMAGE, 76.0, 2048 * 2048, 180.0, 40)
SMALL = PoolTraits("consumer", RenderPath.TILED, 15.0, 4096 * 4096, 60.0, 60, 1024, 256)
UNITS_PER_S = {"h800": 43.7, "consumer": 7.0}
NUM_DECISIONS = 20_000


def draw_report(pool: str, index: int, draws: random.Random) -> ReplicaReport:
    backlog = draws.choice([0.0, 34.5, 80.0, 200.0])
    return ReplicaReport(
        pool=pool,
        replica_id=f"{pool}-{index}",
        sequence=1,
        backlog_units=backlog,
        interactive_backlog_units=backlog,
        max_backlog_units=800.0,
        rate=guess_rate(UNITS_PER_S[pool]),
        warm_sizes=frozenset({(512, 512), (1024, 1024)}),
    )


def read_pools(reports: dict[str, list[ReplicaReport]]) -> list[PoolState]:
    return [
        build_state(
            traits,
            summarise_pool(traits.name, [AgedReport(report, 0.1) for report in of_pool]),
            guess_rate(UNITS_PER_S[traits.name]),
            is_least_loaded=True,
        )
        for traits, of_pool in ((BIG, reports["h800"]), (SMALL, reports["consumer"]))
    ]


def main() -> None:
    draws = random.Random(0)
    reports = {
        traits.name: [draw_report(traits.name, i, draws) for i in range(traits.max_replicas)]
        for traits in (BIG, SMALL)
    }
    sizes = [512] * 70 + [1024] * 25 + [2048] * 5
    facts = [replace(RequestFacts(s, s, 8), timeout_s=60.0) for s in sizes]

    begun = time.process_time()
    for _ in range(200):
        read_pools(reports)
    pools = read_pools(reports)
    summary_us = (time.process_time() - begun) / 200 * 1e6
    print(f"sums over 100 reports: {summary_us:.0f} us, once a read of the ledger")

    begun = time.process_time()
    for index in range(NUM_DECISIONS):
        choose_path(facts[index % 100], pools, POLICY)
    print(f"choose_path: {NUM_DECISIONS / (time.process_time() - begun):,.0f} a second")

    begun = time.process_time()
    for index in range(NUM_DECISIONS):
        one = facts[index % 100]
        choice = choose_path(one, pools, POLICY)
        if isinstance(choice, Choice):
            size = (one.height, one.width)
            choose_replica(reports[choice.pool], choice.option.work, size, one.priority)
    rate = NUM_DECISIONS / (time.process_time() - begun)
    print(f"choose_path and choose_replica: {rate:,.0f} a second")


if __name__ == "__main__":
    main()
