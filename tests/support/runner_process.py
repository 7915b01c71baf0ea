"""A process that runs jobs with a slow stand-in for the stages, until it is killed.

Arguments: the store (a file or a redis URL), a name, seconds a step, seconds a lease, a log of
what was begun.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

from job_orders import answer_of

from cluster.jobs.job import Lane
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from cluster.records import RecordStore, RedisRecordStore, SqliteRecordStore
from deployments.generation import EventListener, ImagesOrder
from deployments.jobs.estimates import MeasuredEstimate
from deployments.jobs.execution import JobExecution
from deployments.jobs.runner import JobRunner
from deployments.schemas import ImagesResponse
from deployments.store_threads import StoreThreads
from pipeline.request import StepEvent


def open_store(place: str) -> RecordStore:
    return RedisRecordStore(place) if "://" in place else SqliteRecordStore(Path(place))


async def run(place: str, name: str, step_s: float, lease_s: float, log: Path) -> None:
    async def draw(order: ImagesOrder, on_event: EventListener | None) -> ImagesResponse:
        with log.open("a") as file:
            file.write(f"{name} {order.id}\n")
        for step in range(1, order.num_inference_steps + 1):
            await asyncio.sleep(step_s)
            if on_event is not None:
                await on_event(0, StepEvent(step, order.num_inference_steps, 0.5))
        return answer_of(order, name)

    records, threads = open_store(place), StoreThreads()
    store = JobStore(records, JobPolicy(lease_s=lease_s, max_attempts=4, retention_s=600.0))
    execution = JobExecution(draw, store, threads, MeasuredEstimate(), max_batch_concurrency=2)
    runner = JobRunner(execution, store, threads, num_slots={Lane.INTERACTIVE: 4}, poll_s=0.02)
    runner.start()
    sys.stdout.write("running\n")
    sys.stdout.flush()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


if __name__ == "__main__":
    place, name, step_s, lease_s, log = sys.argv[1:]
    asyncio.run(run(place, name, float(step_s), float(lease_s), Path(log)))
