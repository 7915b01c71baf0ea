"""How many choices of a path a second of one core makes, over 100 replicas, and what a router's is.

    python tests/benchmarks/routing_speed.py [--replicas N]

A router's choice begins with the pools as they stand: sums over the last reports, which are made
once for each view of the ledger, and what the router has sent since.
"""

import argparse
import random
import statistics
import time
from dataclasses import replace

from cluster.rates import guess_rate
from deployments.backlog import REPORT_PERIOD_S, AgedReport, ReplicaReport
from deployments.ledger import LedgerView
from deployments.pool_choice import KnownPool, LedgerPoolChooser
from deployments.routing.decisions import RequestFacts
from deployments.routing.paths import RoutingPolicy, choose_path
from deployments.routing.pools import PoolTraits
from pipeline.request import RenderPath

POLICY = RoutingPolicy()
BIG = PoolTraits("h800", RenderPath.FULL_IMAGE, 76.0, 2048 * 2048, 180.0, 40)
SMALL = PoolTraits("consumer", RenderPath.TILED, 15.0, 4096 * 4096, 60.0, 60, 1024, 256)
GUESSES = {"h800": guess_rate(43.7), "consumer": guess_rate(7.0)}
BIG_SHARE = 0.4
NUM_DECISIONS = 20_000
CALLS_PER_S = 100
"""Of one router, as many as one takes."""
NUM_VIEWS = 20


def draw_report(pool: str, index: int, draws: random.Random) -> AgedReport:
    backlog = draws.choice([0.0, 34.5, 80.0, 200.0])
    report = ReplicaReport(
        pool=pool,
        replica_id=f"{pool}-{index}",
        sequence=1,
        backlog_units=backlog,
        interactive_backlog_units=backlog,
        max_backlog_units=800.0,
        rate=GUESSES[pool].observe(8.0, 8, 8.0 / GUESSES[pool].overall.units_per_s),
    )
    return AgedReport(report, draws.uniform(0.0, 0.3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=100)
    options = parser.parse_args()
    draws, now_s = random.Random(0), 0.0
    num_big = round(BIG_SHARE * options.replicas)
    pools = ["h800"] * num_big + ["consumer"] * (options.replicas - num_big)
    view = LedgerView(tuple(draw_report(pool, i, draws) for i, pool in enumerate(pools)))
    chooser = LedgerPoolChooser(
        [KnownPool(traits, GUESSES[traits.name]) for traits in (BIG, SMALL)],
        POLICY,
        router_id="router",
        clock=lambda: now_s,
    )
    sizes = [512] * 70 + [1024] * 25 + [2048] * 5
    facts = [replace(RequestFacts(s, s, 8), timeout_s=60.0) for s in sizes]

    chooser.update(view)
    states = chooser.states()
    begun = time.process_time()
    for index in range(NUM_DECISIONS):
        choose_path(facts[index % 100], states, POLICY)
    print(f"choose_path: {NUM_DECISIONS / (time.process_time() - begun):,.0f} a second")

    views_ms, choices_us = [], []
    num_routed = round(CALLS_PER_S * REPORT_PERIOD_S)
    for _ in range(NUM_VIEWS):
        begun = time.process_time()
        chooser.update(LedgerView(view.reports))
        chooser.states()
        views_ms.append(1e3 * (time.process_time() - begun))
        begun = time.process_time()
        for index in range(num_routed):
            chooser.send(chooser.choose(facts[index % 100]))
            now_s += 1 / CALLS_PER_S
        choices_us.append(1e6 * (time.process_time() - begun) / num_routed)
    print(f"a view of the ledger over {options.replicas} replicas: {_spread(views_ms)} ms")
    print(f"a router's choice at {CALLS_PER_S} calls a second: {_spread(choices_us)} us")


def _spread(values: list[float]) -> str:
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:.2f} (quartiles {low:.2f} and {high:.2f})"


if __name__ == "__main__":
    main()
