"""How long a job takes to be accepted durably.

    python tests/benchmarks/job_acceptance.py FILE_OR_REDIS_URL [JOBS]
    python tests/benchmarks/job_acceptance.py --http sqlite|redis [JOBS]

The first measures the store's part of `POST /v1/images/jobs`, the second the whole call to a
service that this script starts, which draws the jobs meanwhile; each call is made when the one
before it has been answered, ten a second.
"""

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
import yaml

sys.path.append(str(Path(__file__).parents[1] / "support"))

from job_orders import accept_job
from redis_server import run_redis
from runner_process import open_store
from service import run_service

from cluster.cost import Z_IMAGE
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from deployments.config import AppConfig
from deployments.jobs.threads import StoreThreads
from deployments.served_model import ServedModel
from deployments.validation import RequestRules
from pipeline.request import ImageSize

PERIOD_S = 0.1


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


def measure_http(kind: str, count: int) -> list[float]:
    """Return the milliseconds of each call."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        store = {"kind": "sqlite"}
        if kind == "redis":
            (folder / "redis").mkdir()
            store = {"kind": "redis", "url": stack.enter_context(run_redis(folder / "redis")).url}
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump({"jobs": {"store": store}}))
        arguments = ("--config", str(file), "--store", str(folder / "images"))
        service = stack.enter_context(run_service(folder, *arguments))
        client = stack.enter_context(httpx.Client(timeout=60))
        return [_post(client, service.url, number) for number in range(count)]


def _post(client: httpx.Client, url: str, number: int) -> float:
    body = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 4, "seed": number}
    started = time.perf_counter()
    answer = client.post(f"{url}/v1/images/jobs", json=body)
    taken_ms = 1000 * (time.perf_counter() - started)
    assert answer.status_code == 202, answer.text
    time.sleep(max(0.0, PERIOD_S - taken_ms / 1000))
    return taken_ms


def main() -> None:
    """Print median, 99th percentile and maximum."""
    arguments = sys.argv[1:]
    is_http = arguments[0] == "--http"
    place, *rest = arguments[1:] if is_http else arguments
    count = int(rest[0]) if rest else 500
    taken = measure_http(place, count) if is_http else asyncio.run(measure(place, count))
    print(
        f"{count} jobs: median {statistics.median(taken):.2f} ms, "
        f"95 % {statistics.quantiles(taken, n=100)[94]:.2f} ms, "
        f"99 % {statistics.quantiles(taken, n=100)[98]:.2f} ms, max {max(taken):.2f} ms"
    )


if __name__ == "__main__":
    main()
