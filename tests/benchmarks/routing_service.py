"""Routing by cost against Ray's own routers, through the real service, its stages paced.

    python tests/benchmarks/routing_service.py [--seconds 150] [--load 0.85] [--stretch 1]

Proxy, router, ledger, coordinator, step loops and handles are the service's own and share this
machine with the callers; the models sleep as long as the real ones take: two H200s in bfloat16, as
measured, and four RTX 4080s in float8, by their datasheet. One trace (70 % 512x512, 25 % 1024x1024,
5 % 2048x2048, eight steps) is sent three times. "cost" is the service as it ships: two pools,
`choose_path` between them, Ray's choice of two within the full-image pool, turns in the tiled one.
"two choices" and "round robin" are Ray's own routers over one deployment that holds all six cards,
where a small card takes as long for a picture as for its tiles. Nothing is refused and nothing runs
out of time, so that every picture counts; deadlines are looked at afterwards. The simulator's
figures of the same trace stand below.

On few cores the service's own work takes a part of each step that it does not take in a cluster:
`--stretch 3` lets every stage and the trace take three times as long, and divides what was measured
by three.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import httpx
import numpy as np
import pytest
from mixed_paces import ALL, BIG, NUM_BIG, NUM_SMALL, SMALL, MixedLoader, plan_pools
from paced_service import run_service_over

import deployments.app
from cluster.profiles import CONSUMER_16GB, H800
from deployments.app import TAKE_TURNS
from deployments.config import AppConfig
from deployments.replica_bounds import pool_options
from deployments.routing.paths import RoutingPolicy
from deployments.simulator.dispatch import (
    CostDispatcher,
    RoundRobinDispatcher,
    TwoChoicesDispatcher,
)
from deployments.simulator.traces import Trace, draw_trace, steady
from tests.benchmarks.routing import MIX, UNITS_PER_REQUEST, simulate

ROUTERS: Final = ("cost", "two choices", "round robin")
NUM_WARM_UP: Final = 30
CALL_S: Final = 900.0


@dataclass
class Call:
    """One answer."""

    side: int
    latency_s: float
    pool: str
    deadline_s: float


def build_config(router: str, folder: Path) -> AppConfig:
    """Two pools, or one that holds both kinds of card."""
    common = {
        "device": "cpu",
        "num_cpus": 0.05,
        "max_ongoing_requests": 2048,
        "step_loop": {"held_units": 1e6},
    }
    big = {**common, "name": H800.name, "profile": H800.name, "accelerator": "H200"}
    small = {
        **common,
        "name": CONSUMER_16GB.name,
        "profile": CONSUMER_16GB.name,
        "accelerator": "GeForce-RTX-4080",
        "path": "tiled",
        # Precision is a matter of pace here, but it decides what fits the card's memory.
        "memory_gib": 16.0,
    }
    pools = [_of(big, NUM_BIG), _of(small, NUM_SMALL)]
    if router != "cost":
        pools = [_of({**big, "name": ALL}, NUM_BIG + NUM_SMALL)]
    stage = {"num_cpus": 0.05, "max_ongoing_requests": 2048}
    return AppConfig.model_validate(
        {
            "router": {"num_cpus": 0.05, "max_ongoing_requests": 2048},
            "text_encoder": stage,
            "vae_decoder": stage,
            "pools": pools,
            "store": {"path": str(folder / "images")},
        }
    )


def _of(pool: dict[str, Any], count: int) -> dict[str, Any]:
    return {**pool, "min_replicas": count, "max_replicas": count}


@contextmanager
def replicas_chosen_by(router: str) -> Iterator[None]:
    """Let Ray's round robin choose replicas of whole pictures too; its default needs no word."""
    with pytest.MonkeyPatch.context() as patch:
        if router == "round robin":
            patch.setattr(
                deployments.app,
                "pool_options",
                lambda pool, model: {
                    **pool_options(pool, model),
                    "request_router_config": TAKE_TURNS,
                },
            )
        yield


async def draw(client: httpx.AsyncClient, side: int, deadline_s: float, number: int) -> Call:
    body = {
        "prompt": f"a red circle, number {number}",
        "size": f"{side}x{side}",
        "num_inference_steps": 8,
        "seed": number,
        "timeout_s": CALL_S,
        "output_format": "jpeg",
    }
    begun_s = time.monotonic()
    answer = await client.post("/v1/images/generations", json=body)
    latency_s = time.monotonic() - begun_s
    content = answer.raise_for_status().json()
    return Call(side, latency_s, content["routing"]["pool"], deadline_s)


async def send(url: str, trace: Trace, stretch: float) -> list[Call]:
    """Send a few calls, from which replicas learn their rates, and then the trace."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=CALL_S, limits=limits) as client:
        for number in range(0, NUM_WARM_UP, 6):
            few = [draw(client, 512, 10.0, number + each) for each in range(6)]
            await asyncio.gather(*few)
        print(f"  {time.strftime('%H:%M:%S')} sending {len(trace)} calls", flush=True)
        begun_s = time.monotonic()
        tasks = []
        for number, (at_s, kind) in enumerate(zip(trace.times_s, trace.kind_of, strict=True)):
            await asyncio.sleep(max(0.0, begun_s + stretch * float(at_s) - time.monotonic()))
            facts = trace.kinds[kind]
            deadline_s = facts.timeout_s or CALL_S
            tasks.append(asyncio.create_task(draw(client, facts.height, deadline_s, 1000 + number)))
        calls = await asyncio.gather(*tasks)
    return [replace(call, latency_s=call.latency_s / stretch) for call in calls]


def measure(router: str, trace: Trace, stretch: float) -> list[Call]:
    """Run the service under one router, and send the trace."""
    print(f"{time.strftime('%H:%M:%S')} {router}: starting", flush=True)
    with tempfile.TemporaryDirectory() as name, replicas_chosen_by(router):
        folder = Path(name)
        config = build_config(router, folder)
        load = MixedLoader.to_folder(folder / "logs").stretched(stretch)
        with run_service_over(load, config) as service:
            return asyncio.run(send(service.url, trace, stretch))


def print_row(name: str, latencies_s: Sequence[float], in_time: float, rest: str = "") -> None:
    p50, p95, p99 = np.percentile(latencies_s, [50, 95, 99])
    print(f"{name:<26} {p50:>7.2f} {p95:>7.2f} {p99:>7.2f} {in_time:>8.2%}   {rest}", flush=True)


def print_measured(router: str, calls: Sequence[Call]) -> None:
    in_time = sum(call.latency_s <= call.deadline_s for call in calls) / len(calls)
    sides = sorted({call.side for call in calls})
    by_size = {side: [each.latency_s for each in calls if each.side == side] for side in sides}
    rest = ", ".join(f"{side} {np.percentile(of, 95):.2f}" for side, of in by_size.items())
    shares = Counter(call.pool for call in calls)
    told = ", ".join(f"{pool} {count / len(calls):.0%}" for pool, count in shares.items())
    print_row(f"{router}, service", [call.latency_s for call in calls], in_time, f"{rest}; {told}")


def print_simulated(options: argparse.Namespace) -> None:
    dispatchers: dict[str, Any] = {
        "cost": CostDispatcher(RoutingPolicy(), Random(1)),
        "two choices": TwoChoicesDispatcher(Random(1)),
        "round robin": RoundRobinDispatcher(),
    }
    for router, dispatcher in dispatchers.items():
        report = simulate(plan_pools(), dispatcher, options.load, options.seconds)
        by_size = ", ".join(f"{size} {p95:.2f}" for size, p95 in report.p95_by_size.items())
        print(
            f"{router + ', simulator':<26} {report.p50_s:>7.2f} {report.p95_s:>7.2f} "
            f"{report.p99_s:>7.2f} {report.attainment:>8.2%}   {by_size}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=150.0, help="of the trace")
    parser.add_argument("--load", type=float, default=0.85, help="share of all cards' capacity")
    parser.add_argument("--stretch", type=float, default=1.0, help="of all times")
    parser.add_argument("--routers", nargs="+", choices=ROUTERS, default=list(ROUTERS))
    parser.add_argument("--out", type=Path, help="every call, as JSON")
    options = parser.parse_args()
    rate = options.load / UNITS_PER_REQUEST
    rate *= NUM_BIG * BIG.units_per_s + NUM_SMALL * SMALL.units_per_s
    trace = draw_trace(steady(rate), options.seconds, MIX, seed=1)
    print(f"{len(trace)} calls, {rate:.2f} a second, {options.load:.0%} load")
    measured = {}
    for router in options.routers:
        measured[router] = measure(router, trace, options.stretch)
        print_measured(router, measured[router])
    print(f"\n{'':<26} {'p50 s':>7} {'p95 s':>7} {'p99 s':>7} {'in time':>8}   p95 by size; pools")
    for router, calls in measured.items():
        print_measured(router, calls)
    print_simulated(options)
    if options.out is not None:
        rows = {router: [asdict(call) for call in calls] for router, calls in measured.items()}
        options.out.write_text(json.dumps(rows))
    return judge(measured)


def judge(measured: dict[str, list[Call]]) -> int:
    """Say how much lower the 95th percentile of routing by cost is; at least 30 % is asked for."""
    p95 = {
        router: float(np.percentile([call.latency_s for call in calls], 95))
        for router, calls in measured.items()
    }
    if "cost" not in p95 or len(p95) == 1:
        return 0
    gains = {router: 1 - p95["cost"] / each for router, each in p95.items() if router != "cost"}
    told = ", ".join(f"{gain:.0%} lower than by {router}" for router, gain in gains.items())
    print(f"p95 by cost is {told}")
    return int(min(gains.values()) < 0.30)


if __name__ == "__main__":
    sys.exit(main())
