"""How long a job takes to be accepted: the store's part of `POST /v1/images/jobs`, durably.

python tests/benchmarks/job_acceptance.py FILE_OR_REDIS_URL [JOBS]
"""

import asyncio
import statistics
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from job_orders import accept_job
from runner_process import open_store

from cluster.cost import Z_IMAGE
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from deployments.config import AppConfig
from deployments.jobs.threads import StoreThreads
from deployments.served_model import ServedModel
from deployments.validation import RequestRules
from pipeline.request import ImageSize


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


def main() -> None:
    """Print median, 99th percentile and maximum."""
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    taken = asyncio.run(measure(sys.argv[1], count))
    print(
        f"{count} jobs: median {statistics.median(taken):.2f} ms, "
        f"p99 {statistics.quantiles(taken, n=100)[98]:.2f} ms, max {max(taken):.2f} ms"
    )


if __name__ == "__main__":
    main()
