"""Routing by cost against Ray's own routers, through the real service, its stages paced.

    python tests/benchmarks/routing_service.py [--seconds 150] [--load 0.85] [--together]

Proxy, router, ledger, coordinator, step loops and handles are the service's own and share this
machine with the callers; the models sleep as long as the real ones take: two H200s in bfloat16, as
measured, and four RTX 4080s in float8, by their datasheet. One trace (70 % 512x512, 25 % 1024x1024,
5 % 2048x2048, eight steps) is sent three times. "cost" is the service as it ships: two pools,
`choose_path` between them, Ray's choice of two within the full-image pool, turns in the tiled one.
"two choices" and "round robin" are Ray's own routers over one deployment that holds all six cards,
where a small card takes as long for a picture as for its tiles. Nothing is refused and nothing runs
out of time, so that every picture counts; deadlines are looked at afterwards. The simulator's
figures of the same trace stand below: which of two replicas are drawn is chance, so there they are
medians of several draws, and between what the 95th percentiles were.

`--together` runs the three services side by side, each in a cluster of its own: for a machine of at
least 16 idle cores, where that takes half the time.

On few cores the service's own work takes a part of each step that it does not take in a cluster:
`--stretch 3` lets every stage and the trace take three times as long, and divides what was measured
by three.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import httpx
import numpy as np
import pytest
from mixed_paces import ALL, NUM_BIG, NUM_SMALL, MixedLoader
from paced_service import run_service_over

import deployments.app
from cluster.profiles import CONSUMER_16GB, H800
from deployments.app import TAKE_TURNS
from deployments.config import AppConfig
from deployments.replica_bounds import pool_options
from deployments.simulator.traces import Trace, draw_trace, steady
from tests.benchmarks.routing import (
    DISPATCHERS,
    MIX,
    SMALLEST_MIX,
    print_header,
    print_medians,
    simulate,
    to_rate,
)

ROUTERS: Final = ("cost", "two choices", "round robin")
NUM_WARM_UP: Final = 30
CALL_S: Final = 900.0
NUM_SIMULATED: Final = 15


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
        print(f"{time.strftime('%H:%M:%S')} {url}: sending {len(trace)} calls", flush=True)
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
            calls = asyncio.run(send(service.url, trace, stretch))
    print_measured(router, calls)
    return calls


def measure_all(routers: Sequence[str], trace: Trace, options: argparse.Namespace) -> list[Any]:
    """Measure one after another, or all in processes of their own."""
    arguments = [(router, trace, options.stretch) for router in routers]
    if not options.together:
        return [measure(*each) for each in arguments]
    with multiprocessing.get_context("spawn").Pool(len(routers)) as pool:
        return pool.starmap(measure, arguments, chunksize=1)


def print_measured(router: str, calls: Sequence[Call]) -> None:
    latencies_s = [call.latency_s for call in calls]
    p50, p95, p99 = np.percentile(latencies_s, [50, 95, 99])
    in_time = sum(call.latency_s <= call.deadline_s for call in calls) / len(calls)
    sides = sorted({call.side for call in calls})
    by_size = {side: [each.latency_s for each in calls if each.side == side] for side in sides}
    rest = ", ".join(f"{side} {np.percentile(of, 95):.2f}" for side, of in by_size.items())
    shares = Counter(call.pool for call in calls)
    told = ", ".join(f"{pool} {count / len(calls):.0%}" for pool, count in shares.items())
    print(
        f"{router + ', service':<28} {p50:>7.2f} {p95:>7.2f} {'':>7} {'':>7} {p99:>7.2f} "
        f"{in_time:>8.2%}   {rest}; {told}",
        flush=True,
    )


def print_simulated(router: str, options: argparse.Namespace) -> None:
    reports = [
        simulate(SMALLEST_MIX, DISPATCHERS[router](draws), options.load, options.seconds)
        for draws in range(NUM_SIMULATED)
    ]
    print_medians(f"{router}, simulator", reports)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=150.0, help="of the trace")
    parser.add_argument("--load", type=float, default=0.85, help="share of all cards' capacity")
    parser.add_argument("--stretch", type=float, default=1.0, help="of all times")
    parser.add_argument("--routers", nargs="+", choices=ROUTERS, default=list(ROUTERS))
    parser.add_argument("--together", action="store_true", help="all routers at once")
    parser.add_argument("--out", type=Path, help="every call, as JSON")
    options = parser.parse_args()
    rate = to_rate(SMALLEST_MIX, options.load)
    trace = draw_trace(steady(rate), options.seconds, MIX, seed=1)
    print(f"{len(trace)} calls, {rate:.2f} a second, {options.load:.0%} load", flush=True)
    measured = dict(zip(options.routers, measure_all(options.routers, trace, options), strict=True))
    print()
    print_header()
    for router, calls in measured.items():
        print_measured(router, calls)
    for router in options.routers:
        print_simulated(router, options)
    if options.out is not None:
        rows = {router: [asdict(call) for call in calls] for router, calls in measured.items()}
        options.out.write_text(json.dumps(rows))
    return judge(measured)


def judge(measured: Mapping[str, list[Call]]) -> int:
    """Say how much lower the 95th percentile of routing by cost is; at least 30 % is asked for."""
    p95 = {
        router: float(np.percentile([call.latency_s for call in calls], 95))
        for router, calls in measured.items()
    }
    if "cost" not in p95 or len(p95) == 1:
        return 0
    gains = {router: 1 - p95["cost"] / each for router, each in p95.items() if router != "cost"}
    told = ", ".join(f"{gain:.0%} lower than by {router}" for router, gain in gains.items())
    print(f"p95 by cost is {told}", flush=True)
    return int(min(gains.values()) < 0.30)


if __name__ == "__main__":
    sys.exit(main())
