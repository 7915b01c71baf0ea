"""What traces, metrics, logs and usage records cost: two services side by side, with and without.

    python tests/benchmarks/telemetry_cost.py [--rounds N] [--model FOLDER]

Calls alternate between the two, so that whatever else the machine does hits both alike. "With" has
every trace sampled and detailed, sent to a receiver in this process; "without" has nothing on.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from otlp_receiver import receive_grpc
from service import run_service

BODY = {"prompt": "a red circle on a blue background", "size": "256x256"}
CONCURRENCY = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="pairs of single calls")
    parser.add_argument("--blocks", type=int, default=10, help="pairs of blocks of 16 calls")
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    with ExitStack() as stack:
        receiver = stack.enter_context(receive_grpc())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {
            name: _start(stack, folder / name, options.model, environment)
            for name, environment in _environments(folder, receiver.endpoint).items()
        }
        client = stack.enter_context(httpx.Client(timeout=120))
        for url in urls.values():
            _measure_block(client, url)
        latency_ms = _alternate(urls, options.rounds, lambda url: 1000 * _measure_call(client, url))
        per_s = _alternate(urls, options.blocks, lambda url: _measure_block(client, url))
        num_spans = len(receiver.all_spans())
    _report("latency, ms", latency_ms)
    _report("throughput, pictures/s", per_s)
    print(f"{num_spans} spans were received")


def _environments(folder: Path, endpoint: str) -> dict[str, dict[str, str]]:
    usage = folder / "usage"
    return {
        "without": {"ZIMAGE_TELEMETRY__RAY_METRICS": "false"},
        "with": {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "ZIMAGE_TELEMETRY__STEP_DETAIL_RATIO": "1.0",
            "ZIMAGE_USAGE__ENABLED": "true",
            "ZIMAGE_USAGE__JOURNAL": str(usage / "journal"),
            "ZIMAGE_USAGE__EXPORT__FOLDER": str(usage / "exported"),
        },
    }


def _start(stack: ExitStack, folder: Path, model: str, environment: dict[str, str]) -> str:
    folder.mkdir()
    arguments = ("--model", model, "--store", str(folder / "images"))
    return stack.enter_context(run_service(folder, *arguments, environment=environment)).url


def _alternate(
    urls: dict[str, str], rounds: int, measure: Callable[[str], float]
) -> dict[str, list[float]]:
    measured: dict[str, list[float]] = {name: [] for name in urls}
    for index in range(rounds):
        # Who goes first changes, so that neither always finds the other's caches.
        names = list(urls) if index % 2 else list(reversed(urls))
        for name in names:
            measured[name].append(measure(urls[name]))
    return measured


def _measure_call(client: httpx.Client, url: str) -> float:
    started = time.perf_counter()
    client.post(f"{url}/v1/images/generations", json=BODY).raise_for_status()
    return time.perf_counter() - started


def _measure_block(client: httpx.Client, url: str) -> float:
    num_calls = 2 * CONCURRENCY
    started = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(lambda _: _measure_call(client, url), range(num_calls)))
    return num_calls / (time.perf_counter() - started)


def _report(title: str, measured: dict[str, list[float]]) -> None:
    print(f"{title:>24} {'25 %':>8} {'median':>8} {'75 %':>8}   of {len(measured['with'])}")
    differences = [
        after - before for after, before in zip(measured["with"], measured["without"], strict=True)
    ]
    for name, values in (*measured.items(), ("difference, in pairs", differences)):
        low, median, high = statistics.quantiles(values, n=4)
        print(f"{name:>24} {low:8.2f} {median:8.2f} {high:8.2f}")


if __name__ == "__main__":
    main()
