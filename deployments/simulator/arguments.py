"""The arguments of `zimage-serve plan`, and what they stand for."""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cluster.accelerators import Precision
from cluster.errors import ClusterError
from cluster.profiles import CONSUMER_16GB, H800
from cluster.scaling import ScalingPolicy
from deployments.routing.decisions import RequestFacts
from deployments.simulator.errors import PlanError
from deployments.simulator.plans import PoolPlan, ServicePlan, plan_pool
from deployments.simulator.rules import (
    MAX_REQUESTS,
    read_count,
    read_duration,
    read_number,
    read_positive,
    read_share,
    read_side,
    read_steps,
)
from deployments.simulator.stage_sizes import plan_stages
from deployments.simulator.trace_file import read_trace
from deployments.simulator.traces import Rate, Trace, burst, diurnal, draw_trace, steady
from pipeline.request import LATENT_SCALE, SIZE_MULTIPLE
from pipeline.tiled_passes import TilingOptions

_POOL: Final = re.compile(
    r"(?P<accelerator>[A-Za-z0-9-]+):(?P<precision>bf16|fp8)"
    r"(?:=(?P<price>\d+(?:\.\d+)?))?(?:x(?P<least>\d+)(?:-(?P<most>\d+))?)?"
)
_SIZE: Final = re.compile(r"(\d+)x(\d+)(?::(\d+(?:\.\d+)?))?")

BIG_ACCELERATORS: Final = frozenset({"H100", "H200", "H800"})

DEFAULT_OFFERS: Final = ("H100:fp8", "H200:fp8", "GeForce-RTX-4090:fp8")


@dataclass(frozen=True)
class PoolArgument:
    """A pool as it was written: `H100:fp8=2.50x180-540`."""

    accelerator: str
    precision: Precision
    price_per_hour: float | None
    min_replicas: int
    max_replicas: int


def parse_pool(text: str) -> PoolArgument:
    """Read `ACCELERATOR:PRECISION[=PRICE][xMIN[-MAX]]`.

    Raises:
        ArgumentTypeError: If it is not of that form.
    """
    found = _POOL.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"a pool must be ACCELERATOR:PRECISION[=PRICE][xMIN[-MAX]], got {text!r}"
        )
    least = int(found["least"] or 0)
    return PoolArgument(
        accelerator=found["accelerator"],
        precision=Precision(found["precision"]),
        price_per_hour=float(found["price"]) if found["price"] else None,
        min_replicas=least,
        max_replicas=int(found["most"] or least),
    )


def parse_mix(text: str) -> dict[tuple[int, int], float]:
    """Read `WIDTHxHEIGHT[:WEIGHT],...` into weights by height and width.

    Raises:
        ArgumentTypeError: If it is not of that form, or no such picture can be drawn.
    """
    mix: dict[tuple[int, int], float] = {}
    for item in text.split(","):
        found = _SIZE.fullmatch(item)
        if found is None:
            raise argparse.ArgumentTypeError(
                f"sizes must be WIDTHxHEIGHT[:WEIGHT],..., got {item!r}"
            )
        width, height = _read_side(found[1]), _read_side(found[2])
        mix[height, width] = _read_weight(found[3] or "1")
    return mix


_T = TypeVar("_T")


def to_argument(read: Callable[[str], _T], subject: str = "") -> Callable[[str], _T]:
    """Have argparse say which rule a value breaks: of a plain ValueError it drops the message."""

    def read_argument(text: str) -> _T:
        try:
            return read(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f"{subject}{exc}") from exc

    return read_argument


_read_side = to_argument(read_side, "a side ")
_read_weight = to_argument(read_positive, "a weight ")


def parse_tile(text: str) -> TilingOptions:
    """Read the side of a tile; its overlap is about a sixth of it, in whole patches.

    Raises:
        ArgumentTypeError: If the side does not divide by 16.
    """
    if not text.isdecimal() or not int(text) or int(text) % SIZE_MULTIPLE:
        raise argparse.ArgumentTypeError(
            f"must be positive and divide by {SIZE_MULTIPLE}, got {text!r}"
        )
    overlap = round(int(text) / 6 / SIZE_MULTIPLE) * SIZE_MULTIPLE
    return TilingOptions(int(text) // LATENT_SCALE, overlap // LATENT_SCALE)


_NUMBER: Final = to_argument(read_number)
_POSITIVE: Final = to_argument(read_positive)
_SHARE: Final = to_argument(read_share)


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `zimage-serve plan` can be asked."""
    load = parser.add_argument_group("the load")
    load.add_argument("--trace", type=Path, help="requests from a .csv or .jsonl file")
    load.add_argument("--rate", type=_NUMBER, default=10.0, help="requests a second (%(default)s)")
    load.add_argument(
        "--size",
        type=parse_mix,
        default="1024x1024",
        help="WIDTHxHEIGHT[:WEIGHT],... (%(default)s)",
    )
    load.add_argument(
        "--steps", type=to_argument(read_steps), default=8, help="num_inference_steps (%(default)s)"
    )
    load.add_argument("--timeout", type=_POSITIVE, default=60.0, help="deadline, s (%(default)s)")
    load.add_argument(
        "--duration", type=to_argument(read_duration), default=300.0, help="seconds (%(default)s)"
    )
    load.add_argument(
        "--burst", type=_NUMBER, help="for a fifth of the time, so many times the rate"
    )
    load.add_argument("--diurnal", type=_SHARE, help="swing of one wave over the time, 0 to 1")
    load.add_argument(
        "--seed", type=to_argument(read_count), default=0, help="of the arrivals (%(default)s)"
    )
    _add_pool_arguments(parser)
    parser.add_argument("--p95", type=_POSITIVE, default=3.0, help="target, s (%(default)s)")
    parser.add_argument("--within", type=_SHARE, default=0.99, help="target within deadline, share")
    parser.add_argument("--plot", type=Path, help="write a PNG")


def _add_pool_arguments(parser: argparse.ArgumentParser) -> None:
    pools = parser.add_argument_group(
        "the pools",
        "ACCELERATOR:PRECISION[=PRICE AN HOUR][xMIN[-MAX]]; prices are examples if unset",
    )
    asked = pools.add_mutually_exclusive_group()
    asked.add_argument(
        "--pool", type=parse_pool, action="append", default=[], help="simulate this pool; repeat"
    )
    asked.add_argument(
        "--offer", type=parse_pool, action="append", default=[], help="search over these; repeat"
    )
    pools.add_argument(
        "--start-up", type=_NUMBER, default=180.0, help="of a replica, s (%(default)s)"
    )
    pools.add_argument(
        "--tile",
        type=parse_tile,
        default="768",
        help="side of a tile on 16 GB cards, px (%(default)s)",
    )


def build_trace(options: argparse.Namespace) -> Trace:
    """Make or read the trace.

    Raises:
        PlanError: If the file is wrong, or there is no request, or there are too many.
    """
    trace = _read_or_draw(options)
    if not len(trace):
        raise PlanError("a trace must have requests, got none")
    return trace


def _read_or_draw(options: argparse.Namespace) -> Trace:
    if options.trace is not None:
        return read_trace(options.trace)
    expected = options.rate * max(1.0, options.burst or 0.0) * options.duration
    if expected > MAX_REQUESTS:
        raise PlanError(f"--rate for --duration must be at most {MAX_REQUESTS}, got {expected:g}")
    mix = {
        RequestFacts(height, width, options.steps, timeout_s=options.timeout): weight
        for (height, width), weight in options.size.items()
    }
    return draw_trace(_rate(options), options.duration, mix, seed=options.seed)


def _rate(options: argparse.Namespace) -> Rate:
    if options.burst is not None:
        fifth_s = options.duration / 5
        return burst(options.rate, factor=options.burst, begin_s=2 * fifth_s, duration_s=fifth_s)
    if options.diurnal is not None:
        return diurnal(options.rate, swing=options.diurnal, period_s=options.duration)
    return steady(options.rate)


def build_plan(options: argparse.Namespace, trace: Trace) -> ServicePlan:
    """Plan the pools, and the stages around them at the size that the load needs.

    Raises:
        PlanError: If a pool makes no sense.
    """
    for pool in options.pool:
        if not pool.max_replicas:
            example = f"{pool.accelerator}:{pool.precision}x2"
            raise PlanError(f"--pool must say how many replicas it has, as {example}, got none")
    asked = options.pool or options.offer or [parse_pool(offer) for offer in DEFAULT_OFFERS]
    try:
        pools = tuple(_to_pool(options, pool) for pool in asked)
    except ClusterError as exc:
        raise PlanError(str(exc)) from exc
    is_elastic = any(pool.min_replicas < pool.max_replicas for pool in asked)
    text_encoder, vae_decoder = plan_stages(trace, is_elastic=is_elastic)
    return ServicePlan(pools, text_encoder=text_encoder, vae_decoder=vae_decoder)


def _to_pool(options: argparse.Namespace, pool: PoolArgument) -> PoolPlan:
    is_big = pool.accelerator in BIG_ACCELERATORS
    return plan_pool(
        pool.accelerator,
        pool.precision,
        ScalingPolicy(pool.min_replicas, pool.max_replicas),
        profile=H800 if is_big else CONSUMER_16GB,
        price_per_hour=pool.price_per_hour,
        start_up_s=options.start_up,
        tiling=options.tile,
    )
