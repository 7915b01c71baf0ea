"""What `zimage-serve plan` foretells against what the service does, on this machine's CPU.

    python tests/benchmarks/plan_check.py [--requests 150] [--load 0.6] [--replicas 1]

One Poisson trace is sent to the service and to the simulator. The plan's times are those that the
stages took meanwhile, by size, without any wait: for the denoiser what its replica had measured of
its own forwards when a request came. So the machine may be slower then than at another time, and
what is compared is what the simulator makes of these times. What pictures save that share a forward
is measured before, with the model alone. Also: how far the answers' estimates
are off, of pictures that are drawn alone after the first twenty. The pictures are the embedded
model's, each stage on one thread, so that two cores hold the denoiser and the stages around it.
Ends with 1 if a mean, a median or an estimate is off by more than `--bound`.
"""

import argparse
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
import numpy as np
import yaml
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from service import run_service
from shared_forwards import measure_overhead_share

from cluster.cost import full_image_units
from cluster.scaling import ScalingPolicy
from deployments.routing.decisions import RequestFacts
from deployments.routing.paths import RoutingPolicy
from deployments.routing.pools import PoolTraits
from deployments.simulator.dispatch import CostDispatcher
from deployments.simulator.plans import CPU_SHARING, PoolPlan, ServicePlan, StagePlan
from deployments.simulator.simulation import Simulation
from deployments.simulator.traces import Trace, draw_trace, steady
from pipeline.request import RenderPath

NUM_STEPS: Final = 8
MIX: Final = {(128, 128): 0.6, (192, 192): 0.4}
NUM_LEARNT: Final = 20
STAGES: Final = ("encode_s", "own_s", "denoise_s", "decode_s", "rest_s")
_OWN: Final = re.compile(r"own ([\d.]+) s")
REFERENCE_UNITS: Final = 4.31
"""Units at which `PoolPlan` counts a replica's rate."""


@dataclass(frozen=True)
class Timing:
    """One answer, in seconds."""

    size: tuple[int, int]
    wall_s: float
    total_s: float
    encode_s: float
    denoise_s: float
    decode_s: float
    estimate_s: float
    own_s: float
    """Of the denoiser, as its replica's rate foretold."""

    @property
    def rest_s(self) -> float:
        """Neither of the three stages: storing, and the way between."""
        return self.wall_s - self.encode_s - self.denoise_s - self.decode_s


class Caller:
    """Draws pictures, each of a prompt of its own, so that none is encoded before."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=600.0)

    def draw(self, size: tuple[int, int], number: int) -> Timing:
        """Draw one picture."""
        height, width = size
        body = {
            "prompt": f"a red circle on a blue background, {number}",
            "size": f"{width}x{height}",
            "num_inference_steps": NUM_STEPS,
            "seed": number,
            "timeout_s": 600.0,
        }
        begun_s = time.monotonic()
        answer = self._client.post("/v1/images/generations", json=body)
        wall_s = time.monotonic() - begun_s
        content: dict[str, Any] = answer.raise_for_status().json()
        times = {name: ms / 1000 for name, ms in content["timings"].items()}
        return Timing(
            size=size,
            wall_s=wall_s,
            total_s=times["total_ms"],
            encode_s=times["encode_ms"],
            denoise_s=times["denoise_ms"],
            decode_s=times["decode_ms"] + times["file_ms"],
            estimate_s=content["routing"]["estimate_ms"] / 1000,
            own_s=_read_own_s(content["routing"]["explanation"]),
        )


def _read_own_s(explanation: str) -> float:
    found = _OWN.search(explanation)
    assert found is not None, explanation
    return float(found[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--load", type=float, default=0.6, help="share of the denoisers' time")
    parser.add_argument("--replicas", type=int, default=1, help="denoisers")
    parser.add_argument("--bound", type=float, default=0.15)
    options = parser.parse_args()
    overhead_share = measure_overhead_share(sorted(MIX))
    print(
        f"each further picture in a forward saves {overhead_share:.0%} of the smallest one's time"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "zimage.yaml"
        config.write_text(yaml.safe_dump(_config(options.replicas)), "utf-8")
        arguments = ("--config", str(config), "--store", str(folder / "images"))
        with run_service(folder, *arguments) as service:
            caller = Caller(service.url)
            _draw_alone(caller, NUM_LEARNT, first=0)
            alone = _draw_alone(caller, NUM_LEARNT, first=1000)
            trace = _draw_trace(alone, options)
            sent = _send(caller, trace)
            after = _draw_alone(caller, NUM_LEARNT, first=2000)
    alone += after
    _print_times("alone", alone)
    _print_times("in the trace", sent)
    plan = _build_plan(sent, alone, options.replicas, overhead_share)
    foretold_s = _simulate(plan, trace, sent)
    return _report(np.array([each.wall_s for each in sent]), foretold_s, alone, options.bound)


def _print_times(when: str, timings: Sequence[Timing]) -> None:
    for size in MIX:
        means = {name: 1000 * _mean_by_size(timings, name)[size] for name in STAGES}
        text = ", ".join(f"{name.removesuffix('_s')} {mean:.0f} ms" for name, mean in means.items())
        print(f"{size[1]}x{size[0]} {when}: {text}")


def _config(num_replicas: int) -> dict[str, Any]:
    one_thread = {"num_threads": 1}
    pool = {**one_thread, "min_replicas": num_replicas, "max_replicas": num_replicas}
    return {"text_encoder": one_thread, "vae_decoder": one_thread, "pools": [pool]}


def _draw_alone(caller: Caller, count: int, *, first: int) -> list[Timing]:
    sizes = list(MIX)
    return [caller.draw(sizes[index % len(sizes)], first + index) for index in range(count)]


def _draw_trace(alone: Sequence[Timing], options: argparse.Namespace) -> Trace:
    denoise_s = _mean_by_size(alone, "denoise_s")
    mean_s = sum(share * denoise_s[size] for size, share in MIX.items())
    rate = options.load * options.replicas / mean_s
    mix = {RequestFacts(*size, NUM_STEPS): share for size, share in MIX.items()}
    return draw_trace(steady(rate), options.requests / rate, mix, seed=1)


def _send(caller: Caller, trace: Trace) -> list[Timing]:
    """Send every request at its time, whatever became of those before."""
    begun_s = time.monotonic()
    with ThreadPoolExecutor(len(trace)) as threads:
        sent = []
        for number, (at_s, kind) in enumerate(zip(trace.times_s, trace.kind_of, strict=True)):
            time.sleep(max(0.0, begun_s + float(at_s) - time.monotonic()))
            facts = trace.kinds[kind]
            sent.append(threads.submit(caller.draw, (facts.height, facts.width), 10_000 + number))
        return [future.result() for future in sent]


def _mean_by_size(timings: Sequence[Timing], name: str) -> dict[tuple[int, int], float]:
    return {
        size: statistics.fmean(getattr(each, name) for each in timings if each.size == size)
        for size in MIX
    }


def _build_plan(
    sent: Sequence[Timing], alone: Sequence[Timing], num_replicas: int, overhead_share: float
) -> ServicePlan:
    # Of logarithms, since the simulator draws a picture's time around its median.
    denoise_s = {
        size: statistics.geometric_mean(each.own_s for each in sent if each.size == size)
        for size in MIX
    }
    units = {size: full_image_units(*size, 1) for size in MIX}
    forward_s = {size: seconds / NUM_STEPS for size, seconds in denoise_s.items()}
    overhead_s, unit_s = _fit_line(units, forward_s)
    megapixels = {size: size[0] * size[1] / 1024**2 for size in MIX}
    picture_s, megapixel_s = _fit_line(megapixels, _mean_by_size(sent, "decode_s"))
    bounds = ScalingPolicy(num_replicas, num_replicas)
    pool = PoolPlan(
        PoolTraits("cpu", RenderPath.FULL_IMAGE, 16.0, 2048 * 2048, 60.0, num_replicas),
        units_per_s=1 / (unit_s + overhead_s / REFERENCE_UNITS),
        price_per_hour=0.0,
        scaling=bounds,
        forward_overhead_s=overhead_s,
        sharing=CPU_SHARING,
        # Not the line's intercept: units count more of a prompt than these pictures have.
        shared_overhead_s=overhead_share * min(forward_s.values()),
    )
    encode_s = statistics.fmean(each.encode_s for each in sent)
    one = ScalingPolicy(1, 1)
    return ServicePlan(
        (pool,),
        text_encoder=StagePlan("text encoder", encode_s, 0.0, 0.0, one),
        vae_decoder=StagePlan("VAE decoder", picture_s, megapixel_s, 0.0, one),
        store_s=statistics.fmean(each.rest_s for each in alone),
    )


def _fit_line(
    x: Mapping[tuple[int, int], float], y: Mapping[tuple[int, int], float]
) -> tuple[float, float]:
    """Return intercept and slope through the two sizes."""
    small, large = sorted(x, key=lambda size: x[size])
    slope = (y[large] - y[small]) / (x[large] - x[small])
    return y[small] - slope * x[small], slope


def _simulate(plan: ServicePlan, trace: Trace, sent: Sequence[Timing]) -> NDArray[np.float64]:
    means = _mean_by_size(sent, "own_s")
    noise = statistics.stdev(math.log(each.own_s / means[each.size]) for each in sent)
    print(f"a picture's time in the denoiser varies by {noise:.0%}")
    dispatcher = CostDispatcher(RoutingPolicy(), Random(1))
    return Simulation(plan, trace, dispatcher, noise=noise, seed=1).run().latency_s


def _report(
    real_s: NDArray[np.float64],
    foretold_s: NDArray[np.float64],
    alone: Sequence[Timing],
    bound: float,
) -> int:
    title = f"latency of {len(real_s)} requests"
    print(f"{title:<32} {'real s':>8} {'plan s':>8} {'off':>7}")
    offs = []
    for name, of in (
        ("mean", np.mean),
        ("median", np.median),
        ("95 %", lambda times_s: np.percentile(times_s, 95)),
    ):
        real, foretold = float(of(real_s)), float(of(foretold_s))
        offs.append(foretold / real - 1)
        print(f"{name:<32} {real:>8.3f} {foretold:>8.3f} {offs[-1]:>+7.1%}")
    ratios = [each.estimate_s / each.total_s for each in alone]
    median = statistics.median(ratios) - 1
    is_near = sum(abs(ratio - 1) <= bound for ratio in ratios)
    print(f"estimates of {len(ratios)} pictures alone: median {median:+.1%}, ", end="")
    print(f"{is_near} within {bound:.0%}")
    return int(max(abs(off) for off in (*offs[:2], median)) > bound)


if __name__ == "__main__":
    sys.exit(main())
