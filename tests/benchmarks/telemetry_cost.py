"""What traces, metrics, logs and usage records cost: two services side by side, with and without.

    python tests/benchmarks/telemetry_cost.py [--pairs N] [--blocks N] [--model tiny|FOLDER|ID]
    python tests/benchmarks/telemetry_cost.py --parts usage   # what one part costs

Calls of the two alternate, in the order A B B A, so that whatever else the machine does hits both
alike. "With" has every trace sampled (`--sampled`) and a tenth of those detailed (`--detail`), sent
to a receiver in a process of its own, OpenTelemetry's metrics off and Ray's on, and a usage record
a call; "without" has nothing on. `--parts` with no name tells how far two equal services are apart.
By default the model is a random one whose calls take milliseconds, so that one more shows:
`--model embedded --size 256x256 --steps 8` asks for pictures.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from otlp_receiver import receive_apart
from paired_calls import compare_pairs, measure_in_turn
from random_model import save_random_model
from service import run_service

PARTS = ("traces", "metrics", "usage")
CONCURRENCY = 8
NUM_WARM_UP_BLOCKS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1500, help="pairs of single calls")
    parser.add_argument("--blocks", type=int, default=20, help="pairs of blocks of 16 calls")
    parser.add_argument("--seconds", type=float, default=120, help="most for the single calls")
    parser.add_argument("--detail", type=float, default=0.1, help="traces that get an event a step")
    parser.add_argument("--sampled", type=float, default=1.0, help="part of all traces")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="what is on")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--size", default="64x64")
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    body = {"prompt": "a red circle", "size": options.size, "num_inference_steps": options.steps}
    with ExitStack() as stack:
        receiver = stack.enter_context(receive_apart())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = options.model
        if model == "tiny":
            model = str(save_random_model(folder / "model"))
        urls = {
            name: _start(stack, folder / name, model, environment)
            for name, environment in _environments(folder, receiver.endpoint, options).items()
        }
        client = stack.enter_context(httpx.Client(timeout=120))
        call = partial(_measure_call, client, body)
        print("both services are up", flush=True)
        for url in [*urls.values()] * NUM_WARM_UP_BLOCKS:
            _measure_block(call, url)
        ways = {name: partial(call, url) for name, url in urls.items()}
        _report("latency, ms", measure_in_turn(ways, options.pairs, within_s=options.seconds))
        blocks = {name: partial(_measure_block, call, url) for name, url in urls.items()}
        _report("throughput, pictures/s", measure_in_turn(blocks, options.blocks))
        print(f"{receiver.count_spans()} spans were received", flush=True)


def _environments(
    folder: Path, endpoint: str, options: argparse.Namespace
) -> dict[str, dict[str, str]]:
    usage = folder / "usage"
    parts = {
        "traces": {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(options.sampled),
            "ZIMAGE_TELEMETRY__STEP_DETAIL_RATIO": str(options.detail),
        },
        "metrics": {"ZIMAGE_TELEMETRY__RAY_METRICS": "true"},
        "usage": {
            "ZIMAGE_USAGE__ENABLED": "true",
            "ZIMAGE_USAGE__JOURNAL": str(usage / "journal"),
            "ZIMAGE_USAGE__EXPORT__FOLDER": str(usage / "exported"),
        },
    }
    nothing = {"ZIMAGE_TELEMETRY__RAY_METRICS": "false"}
    chosen = {name: value for part in options.parts for name, value in parts[part].items()}
    return {"without": nothing, "with": nothing | chosen}


def _start(stack: ExitStack, folder: Path, model: str, environment: dict[str, str]) -> str:
    folder.mkdir()
    arguments = ("--model", model, "--store", str(folder / "images"))
    return stack.enter_context(run_service(folder, *arguments, environment=environment)).url


def _measure_call(client: httpx.Client, body: dict[str, object], url: str) -> float:
    """Return the milliseconds of one call."""
    started = time.perf_counter()
    client.post(f"{url}/v1/images/generations", json=body).raise_for_status()
    return 1000 * (time.perf_counter() - started)


def _measure_block(call: Callable[[str], float], url: str) -> float:
    """Return the calls a second of 16, eight at a time."""
    num_calls = 2 * CONCURRENCY
    started = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(lambda _: call(url), range(num_calls)))
    return num_calls / (time.perf_counter() - started)


def _report(title: str, measured: dict[str, list[float]]) -> None:
    print(f"{title:>24} {'25 %':>8} {'median':>8} {'75 %':>8}   of {len(measured['with'])}")
    for name, values in measured.items():
        low, median, high = statistics.quantiles(values, n=4)
        print(f"{name:>24} {low:8.2f} {median:8.2f} {high:8.2f}")
    difference = compare_pairs(measured["without"], measured["with"])
    print(f"{'with - without, median':>24} {difference}", flush=True)


if __name__ == "__main__":
    main()
