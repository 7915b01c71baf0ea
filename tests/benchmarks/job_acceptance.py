"""How long a job takes to be accepted durably.

    python tests/benchmarks/job_acceptance.py FILE_OR_REDIS_URL [JOBS]
    python tests/benchmarks/job_acceptance.py --http sqlite|redis [JOBS]
    python tests/benchmarks/job_acceptance.py --compare sqlite|redis [JOBS]

The first measures the store's part of `POST /v1/images/jobs`, the second the whole call to a
service that this script starts, which draws the jobs meanwhile; each call is made when the one
before it has been answered, ten a second. The third does so with the stages' computing threads
behind the others, as the service starts them, and beside them at Ray's own niceness, block after
block; to raise them takes root.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import yaml

sys.path.append(str(Path(__file__).parents[1] / "support"))

from job_orders import accept_job
from ray_processes import find_processes
from redis_server import run_redis
from runner_process import open_store
from service import Service, run_service

from cluster.cost import Z_IMAGE
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from deployments.config import AppConfig
from deployments.served_model import ServedModel
from deployments.store_threads import StoreThreads
from deployments.validation import RequestRules
from pipeline.request import ImageSize

PERIOD_S = 0.1
BLOCK = 25
RAYS_NICENESS = 15
LAST = 19


async def measure(place: str, count: int) -> list[float]:
    """Return the milliseconds of each acceptance, one after another."""
    store = JobStore(open_store(place), JobPolicy(15.0, 4, 3600.0))
    threads = StoreThreads()
    model = ServedModel(
        "tiny", "0", ImageSize(64, 64), max_height=1024, max_width=1024, forward_cost=Z_IMAGE
    )
    rules = RequestRules.from_config(AppConfig(), model)
    base = time.time_ns()
    taken = []
    for number in range(count):
        started = time.perf_counter()
        await threads.call(accept_job, store, rules, base + number)
        taken.append(1000 * (time.perf_counter() - started))
    threads.stop()
    store.records.close()
    return taken


@contextlib.contextmanager
def run_with_store(kind: str) -> Iterator[Service]:
    """Run a service with the embedded model and this kind of job store."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        store = {"kind": "sqlite"}
        if kind == "redis":
            (folder / "redis").mkdir()
            store = {"kind": "redis", "url": stack.enter_context(run_redis(folder / "redis")).url}
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump({"jobs": {"store": store}}))
        arguments = ("--config", str(file), "--store", str(folder / "images"))
        yield stack.enter_context(run_service(folder, *arguments))


def measure_http(kind: str, count: int) -> list[float]:
    """Return the milliseconds of each call."""
    with run_with_store(kind) as service, httpx.Client(timeout=60) as client:
        return [_post(client, service.url, number) for number in range(count)]


def compare(kind: str, count: int) -> dict[str, list[float]]:
    """Return the milliseconds of each call, `count` of them for each place of the stages."""
    taken: dict[str, list[float]] = {"behind": [], "beside": []}
    with run_with_store(kind) as service, httpx.Client(timeout=60) as client:
        measure_block(client, service.url, BLOCK, 0)
        threads = find_computing_threads(service)
        assert threads, "no thread is behind"
        for first in range(0, count, BLOCK):
            for place, niceness in (("beside", RAYS_NICENESS), ("behind", LAST)):
                for thread in threads:
                    os.setpriority(os.PRIO_PROCESS, thread, niceness)
                taken[place] += measure_block(client, service.url, BLOCK, first)
    return taken


def measure_block(client: httpx.Client, url: str, count: int, first: int) -> list[float]:
    """Return the milliseconds of some calls; seeds may come again, since nothing is cached."""
    return [_post(client, url, first + number) for number in range(count)]


def find_computing_threads(service: Service) -> list[int]:
    """Return the threads of the stages that the service has put last."""
    return [
        thread.id
        for kind in ("text encoder", "denoiser", "VAE decoder")
        for process in find_processes(service, kind)
        for thread in process.threads()
        if os.getpriority(os.PRIO_PROCESS, thread.id) == LAST
    ]


def _post(client: httpx.Client, url: str, number: int) -> float:
    body = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 4, "seed": number}
    started = time.perf_counter()
    answer = client.post(f"{url}/v1/images/jobs", json=body)
    taken_ms = 1000 * (time.perf_counter() - started)
    assert answer.status_code == 202, answer.text
    time.sleep(max(0.0, PERIOD_S - taken_ms / 1000))
    return taken_ms


def report(name: str, taken: list[float]) -> None:
    """Print median, percentiles and maximum."""
    percentiles = statistics.quantiles(taken, n=100)
    print(
        f"{name}{len(taken)} jobs: median {statistics.median(taken):.2f} ms, "
        f"90 % {percentiles[89]:.2f} ms, 95 % {percentiles[94]:.2f} ms, "
        f"99 % {percentiles[98]:.2f} ms, max {max(taken):.2f} ms"
    )


def main() -> None:
    """Measure what the arguments name."""
    mode, *rest = sys.argv[1:]
    if mode == "--compare":
        kind, *counts = rest
        for place, taken in compare(kind, int(counts[0]) if counts else 500).items():
            report(f"{place}: ", taken)
    elif mode == "--http":
        kind, *counts = rest
        report("", measure_http(kind, int(counts[0]) if counts else 500))
    else:
        report("", asyncio.run(measure(mode, int(rest[0]) if rest else 500)))
    print(f"load averages {' '.join(f'{load:.1f}' for load in os.getloadavg())}")


if __name__ == "__main__":
    main()
