"""What the service adds to its stages' own time: router, hops, encoding of the file, storing.

    python tests/benchmarks/overhead.py [--requests N] [--model FOLDER]

One call at a time against a service that this script starts; medians and quartiles over all calls.
`hops` is what the router's total has beside what is timed, `http` what the caller waits beside it.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from service import run_service

OWN = ("encode_ms", "denoise_ms", "decode_ms")
BODY = {"prompt": "a red circle on a blue background", "size": "256x256"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--model", options.model, "--store", f"{folder}/images")
        with run_service(Path(folder), *arguments) as service, httpx.Client(timeout=120) as client:
            calls = [
                _call(client, service.url, seed)
                for seed in range(options.warm_up + options.requests)
            ]
    rows = calls[options.warm_up :]
    print(f"{'ms':>12} {'25 %':>8} {'median':>8} {'75 %':>8}   of {len(rows)} calls")
    for name in rows[0]:
        low, median, high = statistics.quantiles([row[name] for row in rows], n=4)
        print(f"{name.removesuffix('_ms'):>12} {low:8.1f} {median:8.1f} {high:8.1f}")


def _call(client: httpx.Client, url: str, seed: int) -> dict[str, float]:
    started = time.perf_counter()
    answer = client.post(f"{url}/v1/images/generations", json={**BODY, "seed": seed})
    wall_ms = 1000 * (time.perf_counter() - started)
    timings: dict[str, float] = answer.raise_for_status().json()["timings"]
    own_ms = sum(timings[name] for name in OWN)
    total_ms = timings["total_ms"]
    return {
        **timings,
        "hops_ms": 2 * total_ms - sum(timings.values()),
        "http_ms": wall_ms - total_ms,
        "wall_ms": wall_ms,
        "overhead_ms": wall_ms - own_ms,
    }


if __name__ == "__main__":
    main()
