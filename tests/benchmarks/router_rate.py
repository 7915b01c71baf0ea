"""How many calls a second one router replica takes, and how that grows with router replicas.

    python tests/benchmarks/router_rate.py [--routers 1 2 4] [--denoisers 32] [--callers 4]

Proxy, routers, ledger, step loops and handles are the service's own; the models sleep as long as
the real ones take on an H200. Callers in processes of their own ask for one picture after another,
so that the service is always full. There must be enough denoisers, encoders, decoders and callers,
and cores, that routers are what limits: "bound" is what the stages could do, and "of a core" what
the busiest process of a kind took of its core, where nearly all of one is what limits. Deployments
call each other by value, as on one machine that `zimage-serve run` has to itself.

`RAY_SERVE_ENABLE_HA_PROXY=1` before the command measures with HAProxy in the place of Ray's proxy.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import httpx
import psutil
from paced_models import PACE, StageTimes
from paced_service import run_paced_service
from ray_processes import TITLES

from cluster.cost import Z_IMAGE, count_image_tokens
from deployments.config import AppConfig

NUM_STEPS: Final = 8
WARM_UP_S: Final = 3.0
CALL_S: Final = 60.0


def build_config(options: argparse.Namespace, num_routers: int, folder: Path) -> AppConfig:
    stage = {"num_cpus": 0.01, "max_ongoing_requests": 2048}
    pool = {**stage, "profile": "h800", "accelerator": "H200", "device": "cpu"}
    return AppConfig.model_validate(
        {
            "router": {**stage, "num_replicas": num_routers},
            "calls": {"by_value": "all"},
            "text_encoder": {**stage, **_count(options.encoders)},
            "vae_decoder": {**stage, **_count(options.decoders)},
            "pools": [{**pool, **_count(options.denoisers), "step_loop": {"held_units": 1e6}}],
            "store": {"path": str(folder / "images")},
        }
    )


def _count(replicas: int) -> dict[str, int]:
    return {"min_replicas": replicas, "max_replicas": replicas}


def call_for(url: str, side: int, seconds: float, concurrency: int) -> tuple[list[float], float]:
    """Keep so many calls in flight for a while; return how long each took, and the CPU seconds."""
    begun_s = time.process_time()
    taken = asyncio.run(_call_for(url, side, seconds, concurrency))
    return taken, time.process_time() - begun_s


async def _call_for(url: str, side: int, seconds: float, concurrency: int) -> list[float]:
    ends_s = time.monotonic() + seconds
    taken: list[float] = []

    async def call(client: httpx.AsyncClient) -> None:
        while (begun_s := time.monotonic()) < ends_s:
            body: dict[str, Any] = {
                "prompt": f"a red circle, {begun_s}",
                "size": f"{side}x{side}",
                "num_inference_steps": NUM_STEPS,
                "output_format": "jpeg",
                "timeout_s": CALL_S,
            }
            answer = await client.post("/v1/images/generations", json=body)
            answer.raise_for_status()
            if time.monotonic() < ends_s:
                taken.append(time.monotonic() - begun_s)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=CALL_S, limits=limits) as client:
        await asyncio.gather(*(call(client) for _ in range(concurrency)))
    return taken


def measure(options: argparse.Namespace, num_routers: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = build_config(options, num_routers, folder)
        with (
            run_paced_service(config, folder / "logs") as service,
            multiprocessing.get_context("spawn").Pool(options.callers) as callers,
        ):
            arguments = (service.url, options.side)
            few = [(*arguments, WARM_UP_S, options.concurrency)] * options.callers
            callers.starmap(call_for, few, chunksize=1)
            before, begun_s = read_cpu(), time.monotonic()
            each = [(*arguments, options.seconds, options.concurrency)] * options.callers
            called = callers.starmap(call_for, each, chunksize=1)
            elapsed_s = time.monotonic() - begun_s
            after = read_cpu()
    taken = [one for calls, _ in called for one in calls]
    used = {
        kind: max((after[kind].get(pid, 0) - cpu for pid, cpu in of_kind.items()), default=0.0)
        for kind, of_kind in before.items()
    }
    used["caller"] = max(cpu_s for _, cpu_s in called)
    told = ", ".join(f"{kind} {cpu_s / elapsed_s:.0%}" for kind, cpu_s in used.items() if cpu_s)
    print(
        f"{num_routers:>7} {len(taken) / options.seconds:>9.1f} "
        f"{1000 * statistics.median(taken):>8.0f} {1000 * percentile(taken, 0.95):>8.0f}   {told}",
        flush=True,
    )


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def read_cpu() -> dict[str, dict[int, float]]:
    """Return the CPU seconds of the service's processes, by kind and process."""
    kinds: dict[str, dict[int, float]] = {kind: {} for kind in (*TITLES, "HAProxy")}
    for process in psutil.Process().children(recursive=True):
        try:
            words, times = process.cmdline(), process.cpu_times()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if (kind := _kind_of(words)) is not None:
            kinds[kind][process.pid] = times.user + times.system
    return kinds


def _kind_of(words: Sequence[str]) -> str | None:
    if words and Path(words[0]).name == "haproxy":
        return "HAProxy"
    title = " ".join(words)
    return next((kind for kind, begin in TITLES.items() if title.startswith(begin)), None)


def count_bound(options: argparse.Namespace) -> float:
    """Return how many pictures a second the stages could draw."""
    units = Z_IMAGE.units(count_image_tokens(options.side, options.side))
    limits = AppConfig().pools[0].step_loop
    num_items = min(limits.max_items, int(limits.step_units / units))
    times = StageTimes()
    rates: tuple[float, ...] = (
        options.denoisers * num_items / (NUM_STEPS * PACE.forward_s(num_items * units)),
        options.encoders / times.encode_s,
        options.decoders / times.decode_s(options.side**2),
    )
    return min(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--routers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--denoisers", type=int, default=32)
    parser.add_argument("--encoders", type=int, default=8)
    parser.add_argument("--decoders", type=int, default=8)
    parser.add_argument("--callers", type=int, default=4, help="processes")
    parser.add_argument("--concurrency", type=int, default=32, help="calls in flight of each")
    parser.add_argument("--side", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    counts = (
        f"{options.denoisers} denoisers, {options.encoders} encoders, {options.decoders} decoders"
    )
    bound = count_bound(options)
    print(f"{counts} at {options.side}x{options.side}: bound {bound:.0f} a second")
    print(f"{'routers':>7} {'calls/s':>9} {'p50 ms':>8} {'p95 ms':>8}   of a core", flush=True)
    for num_routers in options.routers:
        measure(options, num_routers)


if __name__ == "__main__":
    main()
