"""One tiled picture over one card and over two, in one Ray cluster. Random weights.

    python tests/benchmarks/two_gpus_tiled.py --out two_gpus_tiled.json [--within 400]
    python tests/benchmarks/two_gpus_tiled.py --tiny

A node for each of two GPUs, each process under what a 16 GB card offers to allocations. The
service's own coordinator steps the canvas, and sends tiles over Serve's handles to denoiser
replicas: one on the first card, or one on each. "share of one" is the time on two cards over that
on one, "most" the largest part of a step's tiles that one replica of the two ran, and "busy" the
part of the time in which the cards ran forwards. The base pass is one tile, which cannot be spread.
The VAE's tiles are spread by actors that each run the mid block, and exchange moments at each norm.
"""

import argparse
import json
import signal
import statistics
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import ray
import torch
from card_cluster import CardNode, run_applications, run_card_cluster, say
from counting_coordinator import CountingCoordinator
from random_loader import RandomLoader
from ray import serve
from torch import Tensor
from vae_card import VaeCard, decode_spread

from cluster.labels import POOL_LABEL
from cluster.profiles import CONSUMER_16GB
from deployments.app import TAKE_TURNS
from deployments.commands.cluster import shut_down_serve
from deployments.config import PoolConfig
from deployments.denoiser import DenoiserDeployment
from deployments.pools import to_terms
from deployments.process_telemetry import start_replica_telemetry
from deployments.stage_telemetry import StageTelemetry
from deployments.telemetry_config import TelemetryConfig
from pipeline.request import DenoiseRequest, ImageSize, PromptEncoding

PARTS: Final = ("denoise", "vae")
NUM_STEPS: Final = 8
GOAL: Final = 0.62
CARD_LABEL: Final = "card"
CARDS: Final = ("card-0", "card-1")
CALL_S: Final = 120.0
START_S: Final = 180.0
GPU_SHARE: Final = 0.2
"""Of a card, to place by: those that wait while others are measured take no time of it."""


@dataclass(frozen=True)
class Plan:
    """How the picture is cut; latent pixels."""

    tile_size: int
    overlap: int
    start_sigma: float

    @property
    def name(self) -> str:
        base = "no base" if self.start_sigma == 1 else f"base to {self.start_sigma:g}"
        return f"tiles of {8 * self.tile_size}, {base}"

    @property
    def key(self) -> str:
        return f"{self.tile_size}-{round(100 * self.start_sigma)}"


PLANS: Final = tuple(
    Plan(tile_size, 16, sigma) for sigma in (1.0, 0.5) for tile_size in (136, 80, 96)
)
TINY_PLANS: Final = (Plan(24, 16, 1.0), Plan(16, 8, 0.5))


@dataclass
class Row:
    """One line of the table."""

    part: str
    name: str
    num_tiles: int = 0
    one_s: float | None = None
    two_s: float | None = None
    busy_one: float | None = None
    busy_two: float | None = None
    most_of_a_step: float | None = None
    peak_gib: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.two_s / self.one_s if self.one_s and self.two_s else None


class Report:
    """Rows, printed and written as they come."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.rows: list[Row] = []
        self.machine: dict[str, Any] = {}

    def add(self, row: Row) -> None:
        self.rows.append(row)
        say(spell(row))
        rows = [asdict(each) | {"ratio": each.ratio} for each in self.rows]
        self._out.write_text(json.dumps({"machine": self.machine, "rows": rows}, indent=1))


def spell(row: Row) -> str:
    figures = {
        "one": row.one_s and f"{row.one_s:.3f} s",
        "two": row.two_s and f"{row.two_s:.3f} s",
        "share of one": row.ratio and f"{row.ratio:.3f}",
        "tiles": row.num_tiles or None,
        "most": row.most_of_a_step and f"{row.most_of_a_step:.0%}",
        "busy": row.busy_one and row.busy_two and f"{row.busy_one:.0%}, {row.busy_two:.0%}",
        "peak": row.peak_gib and f"{row.peak_gib:.2f} GiB",
        "": row.note or None,
    }
    told = ", ".join(f"{name} {value}".strip() for name, value in figures.items() if value)
    return f"{row.part:18} {row.name:28} {told}"


@dataclass(frozen=True)
class Bench:
    """What every part needs."""

    options: argparse.Namespace
    report: Report
    loader: RandomLoader
    ends_s: float

    @property
    def plans(self) -> tuple[Plan, ...]:
        plans = TINY_PLANS if self.options.tiny else PLANS
        return plans[: self.options.plans]

    @property
    def left_s(self) -> float:
        return self.ends_s - time.monotonic()

    def pool(self, precision: str, plan: Plan) -> PoolConfig:
        return PoolConfig.model_validate(
            {
                "name": CONSUMER_16GB.name,
                "profile": CONSUMER_16GB.name,
                "path": "tiled",
                "memory_gib": self.options.cap_gib,
                "num_cpus": 0.5,
                "num_gpus": GPU_SHARE,
                "num_threads": 1,
                "device": "cpu" if self.options.tiny else "auto",
                "step_loop": {"precision": precision},
                "tiling": {
                    "tile_size": plan.tile_size,
                    "overlap": plan.overlap,
                    "start_sigma": plan.start_sigma,
                    "base_max_pixels": (128 if self.options.tiny else 768) ** 2,
                },
            }
        )

    def request(self, name: str, seed: int) -> DenoiseRequest:
        side = self.options.side
        dim = 64 if self.options.tiny else 2560
        generator = torch.Generator().manual_seed(0)
        embeds = torch.randn(64, dim, generator=generator).bfloat16()
        return DenoiseRequest(
            name,
            PromptEncoding(embeds.float() if self.options.tiny else embeds),
            ImageSize(side, side),
            seed=seed,
            num_inference_steps=NUM_STEPS,
        )


def measure_denoising(bench: Bench, precision: str) -> None:
    """Every plan on one card and on two, one after the other, and the whole picture on one."""
    applications = {
        app: bind_denoisers(bench, precision, cards)
        for app, cards in {f"one-{precision}": CARDS[:1], f"two-{precision}": CARDS}.items()
    }
    try:
        say(f"{precision}: starting three replicas")
        run_applications(applications, within_s=min(START_S, bench.left_s))
        coordinators = {
            f"{app}-{plan.key}": bind_coordinator(bench, precision, plan, app)
            for app in applications
            for plan in bench.plans
        }
        run_applications(coordinators, within_s=min(START_S, bench.left_s))
        say(f"{precision}: running")
        for plan in bench.plans:
            attempt(partial(measure_plan, bench, precision, plan))
        attempt(partial(measure_whole, bench, precision))
    finally:
        for app in [*serve.status().applications]:
            serve.delete(app, _blocking=False)


def bind_denoisers(bench: Bench, precision: str, cards: tuple[str, ...]) -> serve.Application:
    pool = bench.pool(precision, bench.plans[0])
    # The only difference between the two is which cards there are.
    selector = {CARD_LABEL: cards[0]} if len(cards) == 1 else {CARD_LABEL: f"in({','.join(cards)})"}
    deployment = serve.deployment(
        name="denoiser",
        num_replicas=len(cards),
        max_replicas_per_node=1,
        max_ongoing_requests=pool.max_ongoing_requests,
        graceful_shutdown_timeout_s=2.0,
        request_router_config=TAKE_TURNS,
        ray_actor_options={
            "num_cpus": pool.num_cpus,
            "num_gpus": pool.num_gpus,
            "label_selector": selector,
        },
    )(DenoiserDeployment)
    return deployment.bind(
        partial(bench.loader.denoiser, pool),
        name_replica,
        to_terms(pool, bench.loader.describe()),
        None,
        start_telemetry(pool),
    )


def bind_coordinator(bench: Bench, precision: str, plan: Plan, app: str) -> serve.Application:
    pool = bench.pool(precision, plan)
    deployment = serve.deployment(
        name="coordinator",
        graceful_shutdown_timeout_s=2.0,
        ray_actor_options={"num_cpus": 0.1, "label_selector": {POOL_LABEL: "cpu"}},
    )(CountingCoordinator)
    return deployment.bind(
        partial(bench.loader.tiled_settings, pool),
        serve.get_deployment_handle("denoiser", app),
        start_telemetry(pool),
    )


def start_telemetry(pool: PoolConfig) -> StageTelemetry:
    return StageTelemetry(
        "denoise", partial(start_replica_telemetry, TelemetryConfig(), pool.device)
    )


def name_replica() -> str:
    return serve.get_replica_context().replica_id.unique_id


def measure_plan(bench: Bench, precision: str, plan: Plan) -> None:
    times: dict[int, list[float]] = defaultdict(list)
    busy: dict[int, list[float]] = defaultdict(list)
    peaks: list[int] = []
    most: list[float] = []
    num_tiles = 0
    for round_ in range(1 + bench.options.repeats):
        for app, cards in (("one", 1), ("two", 2)):
            if round_ and bench.left_s < 10:
                raise TimeoutError("no time is left for this plan")
            name = f"{app}-{precision}-{plan.key}"
            handle = serve.get_deployment_handle("coordinator", name)
            request = bench.request(f"{name}-{round_}", round_)
            begun_s = time.monotonic()
            denoised = handle.denoise_silently.remote(request).result(timeout_s=CALL_S)
            taken_s = time.monotonic() - begun_s
            steps = handle.take_steps.remote().result(timeout_s=CALL_S)
            say(f"  {name} round {round_}: {taken_s:.3f} s, {spell_steps(steps)}")
            if round_ == 0:
                continue
            times[cards].append(taken_s)
            busy[cards].append(denoised.share_s / (cards * taken_s))
            peaks += [denoised.peak_memory_bytes or 0]
            num_tiles = max(sum(step.values()) for step in steps)
            if cards == 2:
                spread = [step for step in steps if sum(step.values()) > 1]
                most.append(sum(max(s.values()) for s in spread) / sum(map(sum_of, spread)))
    bench.report.add(
        Row(
            f"denoise {precision}",
            plan.name,
            num_tiles,
            statistics.median(times[1]),
            statistics.median(times[2]),
            statistics.median(busy[1]),
            statistics.median(busy[2]),
            statistics.median(most),
            max(peaks) / 2**30,
            f"rounds {spell_times(times[1])} | {spell_times(times[2])}",
        )
    )


def sum_of(step: "Counter[str]") -> int:
    return sum(step.values())


def spell_steps(steps: list["Counter[str]"]) -> str:
    """Say how the tiles of each step were spread, as `2+2`."""
    return " ".join("+".join(map(str, sorted(step.values()))) for step in steps)


def spell_times(times_s: list[float]) -> str:
    return " ".join(f"{each:.3f}" for each in times_s)


def measure_whole(bench: Bench, precision: str) -> None:
    """The picture in one piece, on the first card, under the same cap."""
    handle = serve.get_deployment_handle("denoiser", f"one-{precision}")
    times_s, peak = [], 0
    for round_ in range(1 + min(2, bench.options.repeats)):
        request = bench.request(f"whole-{round_}", round_)
        begun_s = time.monotonic()
        denoised = handle.denoise_silently.remote(request).result(timeout_s=CALL_S)
        times_s.append(time.monotonic() - begun_s)
        peak = max(peak, denoised.peak_memory_bytes or 0)
    bench.report.add(
        Row(
            f"denoise {precision}",
            "full image",
            1,
            statistics.median(times_s[1:]),
            peak_gib=peak / 2**30,
            note=f"rounds {spell_times(times_s[1:])}",
        )
    )


def measure_vae(bench: Bench) -> None:
    """The decode of the same picture: whole, in tiles on one card, in tiles on two."""
    card = ray.remote(VaeCard)
    cards: list[Any] = [
        card.options(num_cpus=0.5, num_gpus=GPU_SHARE, label_selector={CARD_LABEL: name}).remote(
            is_tiny=bench.options.tiny, cap_gib=bench.options.cap_gib
        )
        for name in CARDS
    ]
    try:
        side = bench.options.side // 8
        latents = torch.randn(1, 16, side, side, generator=torch.Generator().manual_seed(0))
        ways: dict[str, Callable[[], Tensor]] = {
            "whole": lambda: ray.get(cards[0].decode_whole.remote(latents), timeout=CALL_S),
            "one": lambda: ray.get(cards[0].decode_tiled.remote(latents), timeout=CALL_S),
            "two": lambda: decode_spread(cards, latents, within_s=CALL_S),
        }
        say("VAE: starting two actors")
        num_tiles = len(ray.get(cards[0].plan.remote(latents), timeout=START_S))
        pixels = {name: decode() for name, decode in ways.items()}
        times = {name: time_in_turn(decode) for name, decode in ways.items()}
        is_same = torch.equal(pixels["one"], pixels["two"])
        peaks = ray.get([each.peak_bytes.remote() for each in cards], timeout=CALL_S)
        bench.report.add(
            Row(
                "VAE",
                "tiles of 512",
                num_tiles,
                times["one"],
                times["two"],
                peak_gib=max(peak or 0 for peak in peaks) / 2**30,
                note="the same pixels" if is_same else "OTHER PIXELS on two cards",
            )
        )
        bench.report.add(Row("VAE", "full image", 1, times["whole"]))
    finally:
        for each in cards:
            ray.kill(each)


def time_in_turn(decode: Callable[[], Tensor]) -> float:
    decode()
    samples = []
    for _ in range(5):
        begun_s = time.monotonic()
        decode()
        samples.append(time.monotonic() - begun_s)
    return statistics.median(samples)


def attempt(part: Callable[[], None]) -> None:
    """Run a part; one that fails is told, and does not end the others."""
    try:
        part()
    except Exception:  # noqa: BLE001  # whatever it is, the others are run
        say(f"a part failed:\n{traceback.format_exc()}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--precisions", nargs="+", default=None, help="float8, auto (bfloat16)")
    parser.add_argument("--side", type=int, default=None, help="of the picture, in pixels")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--plans", type=int, default=None, help="the first so many; all if unset")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cap-gib", type=float, default=CONSUMER_16GB.memory_gib)
    parser.add_argument("--within", type=float, default=500.0, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=Path("two_gpus_tiled.json"))
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    options = parser.parse_args()
    options.precisions = options.precisions or (["auto"] if options.tiny else ["float8", "auto"])
    options.side = options.side or (256 if options.tiny else 2048)
    return options


def describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    gpus = [] if options.tiny else [torch.cuda.get_device_name(i) for i in range(2)]
    return {"gpus": gpus, "torch": torch.__version__, "ray": ray.__version__, **vars(options)} | {
        "out": str(options.out)
    }


def main() -> int:
    options = parse_arguments()
    stop_after(options.within)
    bench = Bench(
        options,
        Report(options.out),
        RandomLoader.of_size(is_tiny=options.tiny),
        time.monotonic() + options.within - 15,
    )
    bench.report.machine = describe_machine(options)
    say(str(bench.report.machine))
    nodes = [
        CardNode(name, {CARD_LABEL: name}, None if options.tiny else index)
        for index, name in enumerate(CARDS)
    ]
    with run_card_cluster(nodes):
        try:
            for precision in options.precisions if "denoise" in options.parts else ():
                attempt(partial(measure_denoising, bench, precision))
            if "vae" in options.parts:
                attempt(partial(measure_vae, bench))
        finally:
            shut_down_serve(within_s=10.0)
    print()
    for row in bench.report.rows:
        print(spell(row))
    return judge(bench.report.rows)


def judge(rows: list[Row]) -> int:
    """Compare the plans whose tiles divide evenly with the goal."""
    even = [row for row in rows if row.part.startswith("denoise") and row.num_tiles % 2 == 0]
    best = min((row.ratio for row in even if row.ratio), default=None)
    print(f"share of one at best {best or float('nan'):.3f}, at most {GOAL} is asked for")
    return int(best is None or best > GOAL)


def stop_after(seconds: float) -> None:
    """Interrupt whatever waits, be it for a signal or for too long."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"stopped by {signal.Signals(number).name}")

    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    sys.exit(main())
