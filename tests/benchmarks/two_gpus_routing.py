"""The whole service over an H200 and a 16 GB card, at the true size, under one mixed trace.

    python tests/benchmarks/two_gpus_routing.py --out two_gpus_routing [--seconds 120]
    python tests/benchmarks/two_gpus_routing.py --tiny --seconds 30
    python tests/benchmarks/two_gpus_routing.py --draw two_gpus_routing.json

One Ray cluster with a node for each of two GPUs: pool `h800` draws whole pictures in bfloat16 and
shares its card with text encoder and VAE decoder by fractions; pool `consumer-16gb` draws in tiles
in float8, under what a 16 GB card offers to allocations (its speed is that of the H200). The
weights are random. 70 % of the calls ask for 512x512, 25 % for 1024x1024 and 5 % for 2048x2048, as
a Poisson process of `--load` of what both pools do, by the times of pictures drawn alone before.

Writes JSON (every call with the router's reason) and, where matplotlib is installed, a picture of
what each pool does over time. A pool is busy while it denoises for some call, by the answers; how
busy a GPU is, is what its driver says.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import httpx
import numpy as np
import ray
import torch
from card_cluster import CardNode, run_applications, run_card_cluster, say, wait_until
from random_loader import RandomLoader
from service import free_port

from cluster.labels import POOL_LABEL
from cluster.profiles import CONSUMER_16GB, CPU, H800
from deployments.app import bind_app
from deployments.commands.cluster import shut_down_serve
from deployments.config import AppConfig
from deployments.routing.decisions import RequestFacts
from deployments.simulator.traces import Trace, draw_trace, steady

NUM_STEPS: Final = 8
POOLS: Final = {H800.name: "full_image", CONSUMER_16GB.name: "tiled"}
MIX: Final = {512: (0.70, 10.0), 1024: (0.25, 10.0), 2048: (0.05, 30.0)}
"""By side: share of the calls, and deadline in seconds."""
TINY_MIX: Final = {64: (0.70, 10.0), 128: (0.25, 10.0), 256: (0.05, 30.0)}
CALL_S: Final = 90.0
START_S: Final = 150.0
LAST_CALLS_S: Final = 35.0
"""Kept after the last arrival: the longest deadline, and what it takes to write."""
SAMPLE_MS: Final = 500


@dataclass
class Call:
    """One call, in seconds since the trace began."""

    side: int
    sent_s: float
    done_s: float
    status: int
    timeout_s: float
    pool: str = ""
    reason: str = ""
    explanation: str = ""
    estimate_s: float = 0.0
    encode_s: float = 0.0
    queue_s: float = 0.0
    denoise_s: float = 0.0
    decode_s: float = 0.0
    file_s: float = 0.0
    store_s: float = 0.0
    error: str = ""

    @property
    def latency_s(self) -> float:
        return self.done_s - self.sent_s

    @property
    def is_in_time(self) -> bool:
        return self.status == 200 and self.latency_s <= self.timeout_s

    @property
    def denoising(self) -> tuple[float, float]:
        """Begin and end, by the times of the stages after it."""
        end_s = self.done_s - self.decode_s - self.file_s - self.store_s
        return end_s - self.denoise_s, end_s


class Caller:
    """Sends calls, each of a prompt of its own."""

    def __init__(self, url: str, sides: Mapping[int, tuple[float, float]]) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(base_url=url, timeout=CALL_S, limits=limits)
        self._sides = sides
        self._count = 0

    async def draw(self, side: int, begun_s: float, *, path: str | None = None) -> Call:
        """Draw one picture; a pinned path is for warming up, and has no deadline."""
        self._count += 1
        timeout_s = self._sides[side][1] if path is None else CALL_S
        body: dict[str, Any] = {
            "prompt": f"a red circle left of a blue square, number {self._count}",
            "size": f"{side}x{side}",
            "num_inference_steps": NUM_STEPS,
            "seed": self._count,
            "timeout_s": timeout_s,
        }
        if path is not None:
            body["path"] = path
        sent_s = time.monotonic() - begun_s
        call = Call(side, sent_s, sent_s, 0, timeout_s)
        try:
            answer = await self._client.post("/v1/images/generations", json=body)
        except httpx.HTTPError as exc:
            call.error = type(exc).__name__
        else:
            _read_answer(call, answer)
        call.done_s = time.monotonic() - begun_s
        return call

    async def close(self) -> None:
        await self._client.aclose()


def _read_answer(call: Call, answer: httpx.Response) -> None:
    call.status = answer.status_code
    content = answer.json()
    if answer.status_code != 200:
        call.error = content["error"]["code"] + ": " + content["error"]["message"]
        return
    routing = content["routing"]
    call.pool, call.reason = routing["pool"], routing["reason"]
    call.explanation, call.estimate_s = routing["explanation"], routing["estimate_ms"] / 1000
    for stage in ("encode", "queue", "denoise", "decode", "file", "store"):
        setattr(call, f"{stage}_s", content["timings"][f"{stage}_ms"] / 1000)


class GpuSampler:
    """Asks the driver how busy each GPU is; silent where there is none."""

    def __init__(self, begun_s: float) -> None:
        self.samples: list[tuple[float, int, float, float]] = []
        """Seconds, GPU, percent busy, MiB in use."""
        self._begun_s = begun_s
        query = "--query-gpu=index,utilization.gpu,memory.used"
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits", f"-lms={SAMPLE_MS}"]
        self._process: subprocess.Popen[str] | None = None
        with suppress(OSError):
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, daemon=True).start()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):
                gpu, busy, memory = (float(part) for part in line.split(","))
                at_s = time.monotonic() - self._begun_s
                self.samples.append((round(at_s, 2), int(gpu), busy, memory))


def build_config(folder: Path, port: int, *, is_tiny: bool) -> AppConfig:
    """Place both pools, and the other stages beside the big pool, by fractions of its card."""
    drain = {"graceful_shutdown_timeout_s": 2.0}
    common = {**drain, "num_cpus": 1, "device": "cpu" if is_tiny else "auto"}
    threads = {"num_threads": 1} if is_tiny else {}
    on_big = {
        **common,
        **threads,
        "profile": H800.name,
        "label_selector": {POOL_LABEL: H800.name},
    }
    on_small = {
        **common,
        **threads,
        "profile": CONSUMER_16GB.name,
        "label_selector": {POOL_LABEL: CONSUMER_16GB.name},
    }
    accelerator = {"accelerator": "CPU" if is_tiny else "H200"}
    precision = {} if is_tiny else {"step_loop": {"precision": "float8"}}
    tiling = {"tiling": {"tile_size": 24, "overlap": 8, "base_max_pixels": 128**2}}
    return AppConfig.model_validate(
        {
            "limits": {"max_pixels": 2048 * 2048},
            "router": {**drain, "num_cpus": 1, "label_selector": {POOL_LABEL: CPU.name}},
            "text_encoder": {**on_big, "num_gpus": 0.25},
            "vae_decoder": {**on_big, "num_gpus": 0.25},
            "pools": [
                {**on_big, **accelerator, "name": H800.name, "num_gpus": 0.5},
                {
                    **on_small,
                    **accelerator,
                    **precision,
                    **(tiling if is_tiny else {}),
                    "name": CONSUMER_16GB.name,
                    "path": "tiled",
                    "num_gpus": 1,
                },
            ],
            "store": {"path": str(folder / "images"), "base_url": f"http://127.0.0.1:{port}"},
            "telemetry": {"log_level": "DEBUG"},
        }
    )


async def warm_up(caller: Caller, mix: Mapping[int, Any], *, is_tiny: bool) -> dict[str, Any]:
    """Draw each size alone in each pool until its kernels are recorded; return its seconds."""
    alone: dict[str, dict[int, float]] = {pool: {} for pool in POOLS}

    async def warm_pool(pool: str) -> None:
        for side in mix:
            for _ in range(2 if side == max(mix) else 4):
                call = await caller.draw(side, time.monotonic(), path=POOLS[pool])
                if call.status != 200:
                    raise RuntimeError(f"{pool} could not draw {side}: {call.error}")
                alone[pool][side] = call.denoise_s
        small = [caller.draw(min(mix), time.monotonic(), path=POOLS[pool]) for _ in range(6)]
        await asyncio.gather(*small, *([] if is_tiny else small_and_middle(pool)))

    def small_and_middle(pool: str) -> list[Any]:
        sides = sorted(mix)[:2]
        return [caller.draw(side, time.monotonic(), path=POOLS[pool]) for side in sides * 2]

    await asyncio.gather(*map(warm_pool, POOLS))
    return alone


def draw_calls(
    alone: Mapping[str, Mapping[int, float]],
    mix: Mapping[int, tuple[float, float]],
    load: float,
    seconds: float,
) -> tuple[Trace, float]:
    """Draw the trace at a load of what both pools do of the mix."""
    rate = load * sum(
        1 / sum(share * alone[pool][side] for side, (share, _) in mix.items()) for pool in POOLS
    )
    kinds = {
        RequestFacts(side, side, NUM_STEPS, timeout_s=timeout_s): share
        for side, (share, timeout_s) in mix.items()
    }
    return draw_trace(steady(rate), seconds, kinds, seed=1), rate


async def send(caller: Caller, trace: Trace) -> list[Call]:
    """Send every call at its time, whatever became of those before."""
    begun_s = time.monotonic()
    tasks = []
    for at_s, kind in zip(trace.times_s, trace.kind_of, strict=True):
        await asyncio.sleep(max(0.0, begun_s + float(at_s) - time.monotonic()))
        tasks.append(asyncio.create_task(caller.draw(trace.kinds[kind].height, begun_s)))
        if len(tasks) % 50 == 0:
            say(f"  {len(tasks)} of {len(trace)} calls sent, {sum(t.done() for t in tasks)} done")
    return list(await asyncio.gather(*tasks))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Start everything, send the trace, and return what is written."""
    mix = TINY_MIX if options.tiny else MIX
    ends_s = time.monotonic() + options.within
    nodes = [
        CardNode(pool, {POOL_LABEL: pool}, None if options.tiny else gpu)
        for gpu, pool in enumerate(POOLS)
    ]
    load = RandomLoader.of_size(is_tiny=options.tiny)
    with tempfile.TemporaryDirectory() as name, run_card_cluster(nodes) as cluster:
        port = free_port()
        config = build_config(Path(name), port, is_tiny=options.tiny)
        try:
            application = bind_app(config, load, load.describe())
            run_applications({"zimage": application}, port=port, within_s=START_S)
            say("every replica is up")
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_ready(url), START_S, lambda: "a pool has not drawn yet")
            say("the service is ready")
            return asyncio.run(measure(url, mix, options, ends_s, cluster))
        except Exception:
            print_logs(cluster)
            raise
        finally:
            shut_down_serve(within_s=5.0)


async def measure(
    url: str,
    mix: Mapping[int, tuple[float, float]],
    options: argparse.Namespace,
    ends_s: float,
    cluster: Path,
) -> dict[str, Any]:
    """Warm up, and send the trace."""
    caller = Caller(url, mix)
    try:
        alone = await warm_up(caller, mix, is_tiny=options.tiny)
        say(f"alone, denoising: {alone}")
        left_s = ends_s - time.monotonic() - LAST_CALLS_S
        seconds = max(5.0, min(options.seconds, left_s))
        trace, rate = draw_calls(alone, mix, options.load, seconds)
        say(f"sending {len(trace)} calls in {seconds:.0f} s, {rate:.2f} a second")
        sampler = GpuSampler(time.monotonic())
        try:
            calls = await send(caller, trace)
        finally:
            sampler.stop()
    finally:
        await caller.close()
    return {
        "machine": describe_machine(options),
        "alone_s": alone,
        "rate": rate,
        "seconds": seconds,
        "calls": [asdict(call) for call in calls],
        "gpu": sampler.samples,
        "log": read_decisions(cluster),
    }


def is_ready(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    return False


def read_decisions(cluster: Path) -> list[str]:
    """Return the router's own lines of why each call went where."""
    lines = [
        json.loads(line)
        for file in cluster.glob("session_*/logs/serve/replica_*Router*.log")
        for line in file.read_text("utf-8").splitlines()
        if " units, wait " in line
    ]
    return [f"{line['asctime']} {line['message']}" for line in lines]


def print_logs(cluster: Path) -> None:
    for file in cluster.glob("*/session_*/logs/serve/replica_*.log"):
        say(f"{file.name}:\n{file.read_text('utf-8')[-1500:]}")


def describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    gpus = [] if options.tiny else [torch.cuda.get_device_name(i) for i in range(2)]
    return {
        "gpus": gpus,
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "ray": ray.__version__,
        "load": options.load,
        "is_tiny": options.tiny,
    }


def report(result: Mapping[str, Any]) -> None:
    """Print the tables."""
    calls = [Call(**call) for call in result["calls"]]
    drawn = [call for call in calls if call.status == 200]
    in_time = sum(call.is_in_time for call in calls)
    print(f"\n{len(calls)} calls, {result['rate']:.2f} a second: {len(drawn)} drawn, ", end="")
    print(f"{in_time / max(1, len(calls)):.2%} within their deadlines")
    print(f"{'':18} {'calls':>6} {'p50 s':>7} {'p95 s':>7} {'p99 s':>7} {'in time':>8}")
    print_percentiles("all", calls)
    for side in sorted({call.side for call in calls}):
        print_percentiles(f"{side}x{side}", [call for call in calls if call.side == side])
    for pool in POOLS:
        print_percentiles(pool, [call for call in calls if call.pool == pool])
    print("\nwhere and why")
    for (side, pool, reason), group in sorted(group_decisions(drawn).items()):
        example = group[len(group) // 2].explanation
        print(f"  {side:>5} {pool:14} {reason:10} {len(group):>4}   {example}")
    for error, count in Counter(call.error for call in calls if call.error).most_common(5):
        print(f"  {count} x {error}")
    print("\nbusy, mean over the trace")
    for pool in POOLS:
        busy = measure_busy(calls, pool, result["seconds"])
        print(f"  {pool:14} {np.mean(busy) if len(busy) else 0:.0%}")
    for gpu in sorted({sample[1] for sample in result["gpu"]}):
        of_gpu = [s for s in result["gpu"] if s[1] == gpu and s[0] <= result["seconds"]]
        print(f"  GPU {gpu} by its driver {np.mean([s[2] for s in of_gpu]):.0f} %, ", end="")
        print(f"at most {max(s[3] for s in of_gpu) / 1024:.1f} GiB")
    print("\nthe router's log")
    for line in result["log"][-8:]:
        print(f"  {line}")


def print_percentiles(name: str, calls: Sequence[Call]) -> None:
    latencies_s = [call.latency_s for call in calls if call.status == 200]
    if not latencies_s:
        print(f"{name:18} {len(calls):>6}")
        return
    p50, p95, p99 = np.percentile(latencies_s, [50, 95, 99])
    share = sum(call.is_in_time for call in calls) / len(calls)
    print(f"{name:18} {len(calls):>6} {p50:>7.2f} {p95:>7.2f} {p99:>7.2f} {share:>8.2%}")


def group_decisions(calls: Sequence[Call]) -> dict[tuple[int, str, str], list[Call]]:
    groups: dict[tuple[int, str, str], list[Call]] = defaultdict(list)
    for call in calls:
        groups[call.side, call.pool, call.reason].append(call)
    return groups


def measure_busy(calls: Sequence[Call], pool: str, seconds: float, bin_s: float = 1.0) -> Any:
    """Return the part of each second in which the pool denoised for some call."""
    fine = 100
    busy = np.zeros(int(np.ceil(seconds / bin_s)) * fine, dtype=bool)
    for call in calls:
        if call.pool == pool:
            begin_s, end_s = call.denoising
            busy[max(0, int(begin_s / bin_s * fine)) : max(0, int(end_s / bin_s * fine))] = True
    return busy.reshape(-1, fine).mean(axis=1)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw what each pool did over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    calls = [Call(**call) for call in result["calls"]]
    seconds = result["seconds"]
    colours = dict(zip(POOLS, ("#1f4e9c", "#d9822b"), strict=True))
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(9, 8), sharex=True, height_ratios=(3, 2, 3)
    )
    for pool, colour in colours.items():
        busy = 100 * measure_busy(calls, pool, seconds)
        smooth = np.convolve(busy, np.ones(5) / 5, mode="same")
        top.plot(np.arange(len(busy)) + 0.5, smooth, color=colour, label=pool)
    top.set(ylabel="denoising, % of the time", ylim=(0, 105))
    top.legend(loc="lower right", frameon=False)
    edges = np.arange(0, seconds + 5, 5)
    sent = [[call.sent_s for call in calls if call.pool == pool] for pool in POOLS]
    middle.hist(sent, bins=list(edges), stacked=True, color=list(colours.values()))
    middle.set(ylabel="calls in 5 s")
    markers = dict(zip(sorted({call.side for call in calls}), (".", "s", "^"), strict=False))
    for side, marker in markers.items():
        for pool, colour in colours.items():
            group = [call for call in calls if (call.side, call.pool) == (side, pool)]
            label = f"{side}x{side}" if pool == H800.name else None
            bottom.scatter(
                [call.sent_s for call in group],
                [call.latency_s for call in group],
                s=18,
                marker=marker,
                color=colour,
                label=label,
            )
    bottom.set(ylabel="latency, s", xlabel="seconds", xlim=(0, seconds), ylim=(0, None))
    bottom.legend(loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False, ncols=3)
    for axes in (top, middle, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


@contextmanager
def stop_after(seconds: float) -> Iterator[None]:
    """Interrupt whatever waits, be it for a signal or for too long."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"stopped by {signal.Signals(number).name}")

    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--load", type=float, default=0.85)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the trace")
    parser.add_argument("--within", type=float, default=235.0, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=Path("two_gpus_routing"), help="without suffix")
    parser.add_argument("--draw", type=Path, help="only draw the picture of this JSON")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    options = parser.parse_args()
    if options.draw is not None:
        result = json.loads(options.draw.read_text())
        report(result)
        draw(result, options.draw.with_suffix(".png"))
        return 0
    with stop_after(options.within + 30):
        result = run(options)
    options.out.with_suffix(".json").write_text(json.dumps(result))
    try:
        report(result)
        draw(result, options.out.with_suffix(".png"))
    except Exception:  # noqa: BLE001  # the JSON is written, and can be drawn elsewhere
        say(traceback.format_exc())
    return int(any(call["status"] != 200 for call in result["calls"]))


if __name__ == "__main__":
    sys.exit(main())
