"""Jobs that pools have no room for hold up nobody, and go on when there is room."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from job_orders import accept_job, answer_of, body_of
from jobs_app import LoadedModel, wait_until

from cluster.jobs.job import Job, JobStatus, Lane
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import DEADLINE, JobPolicy
from cluster.records import SqliteRecordStore
from cluster.storage.folder import FolderImageStore, FolderStoreOptions
from deployments.config import AppConfig
from deployments.errors import OverloadedError, ReplicaLostError
from deployments.generation import EventListener, Generation, ImagesOrder
from deployments.jobs.estimates import MeasuredEstimate
from deployments.jobs.execution import JobExecution
from deployments.jobs.room import RoomWait
from deployments.jobs.runner import JobRunner
from deployments.jobs.setbacks import Setbacks, retry_delay_s
from deployments.pool_choice import FirstPoolChooser, Route
from deployments.schemas import ImagesResponse
from deployments.store_threads import StoreThreads
from deployments.validation import RequestRules
from pipeline.request import RenderPath

MAX_ATTEMPTS: Final = 2
ROOMLESS: Final = 1000
"""Seeds from here on are those of a pool without room."""
NEVER: Final = 2000
"""Seeds from here on are never drawn."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with contextlib.closing(SqliteRecordStore(tmp_path / "jobs.sqlite3")) as records:
        yield JobStore(
            records, JobPolicy(lease_s=60.0, max_attempts=MAX_ATTEMPTS, retention_s=600.0)
        )


@pytest.fixture
def rules(model: LoadedModel) -> RequestRules:
    return RequestRules.from_config(AppConfig(), model.described)


class TwoPools:
    """Draws at once in the one, and in the other when it has room."""

    def __init__(self) -> None:
        self.has_room = False
        self.refused: list[str] = []

    async def __call__(self, order: ImagesOrder, _: EventListener | None) -> ImagesResponse:
        assert not order.outwaits_start
        if order.seed >= NEVER:
            await asyncio.Event().wait()
        if order.seed >= ROOMLESS and not self.has_room:
            self.refused.append(order.id)
            raise OverloadedError("the pool has no replica yet", None, 1)
        await asyncio.sleep(0)
        return answer_of(order, "here")


@contextlib.asynccontextmanager
async def run_jobs(store: JobStore) -> AsyncIterator[TwoPools]:
    pools, threads = TwoPools(), StoreThreads()
    execution = JobExecution(pools, store, threads, MeasuredEstimate(), max_batch_concurrency=2)
    runner = JobRunner(execution, store, threads, num_slots={Lane.INTERACTIVE: 2}, poll_s=0.02)
    runner.start()
    try:
        yield pools
    finally:
        await runner.stop()
        threads.stop()


def has_succeeded(store: JobStore, job: Job) -> bool:
    return store.read(job.id).status is JobStatus.SUCCEEDED


async def test_jobs_that_a_pool_has_no_room_for_hold_up_no_others(
    store: JobStore, rules: RequestRules
) -> None:
    waiting = [accept_job(store, rules, ROOMLESS + number) for number in range(5)]
    other = accept_job(store, rules, 1)
    async with run_jobs(store) as pools:
        await wait_until(lambda: has_succeeded(store, other))
        assert {store.read(job.id).status for job in waiting} <= {
            JobStatus.QUEUED,
            JobStatus.RUNNING,
        }
        pools.has_room = True
        await wait_until(lambda: all(has_succeeded(store, job) for job in waiting))


async def test_a_job_of_another_version_is_left_to_another_router(
    store: JobStore, rules: RequestRules
) -> None:
    job = accept_job(store, rules, 1)
    values = json.loads(store.read_payload(job))
    values[0]["order"]["adapter"] = "a"
    unreadable = replace(job, id=f"job-{2:024x}", created_at=job.created_at - 1)
    store.accept(unreadable, json.dumps(values))
    async with run_jobs(store):
        await wait_until(lambda: has_succeeded(store, job))
        await wait_until(lambda: store.read(unreadable.id).num_waits > 0)

    left = store.read(unreadable.id)
    assert (left.status, left.attempts) == (JobStatus.QUEUED, 0)


async def test_a_job_past_its_deadline_fails_while_all_slots_are_busy(
    store: JobStore, rules: RequestRules
) -> None:
    for number in range(2):
        accept_job(store, rules, NEVER + number)
    late = accept_job(store, rules, 1, timeout_s=0.5)
    async with run_jobs(store):
        await wait_until(lambda: store.read(late.id).status is JobStatus.FAILED)

    assert store.read(late.id).failure == DEADLINE


async def test_requests_of_a_batch_that_wait_leave_room_for_the_others(
    store: JobStore, rules: RequestRules
) -> None:
    seeds = [ROOMLESS, ROOMLESS + 1, ROOMLESS + 2, *range(6)]
    batch = accept_job(store, rules, 0, seeds=seeds)
    async with run_jobs(store) as pools:
        await wait_until(lambda: len(store.read_outcomes(batch.id)) == 6)
        await wait_until(lambda: store.read(batch.id).status is JobStatus.QUEUED)
        pools.has_room = True
        await wait_until(lambda: has_succeeded(store, batch))

    outcomes = store.read_outcomes(batch.id).values()
    assert [outcome for outcome in outcomes if "error" in outcome] == []
    assert len(outcomes) == len(seeds)


async def test_a_job_whose_next_try_would_be_too_late_fails_with_the_reason(
    store: JobStore, rules: RequestRules
) -> None:
    job = accept_job(store, rules, ROOMLESS, timeout_s=0.5)
    async with run_jobs(store):
        await wait_until(lambda: store.read(job.id).status is JobStatus.FAILED)

    failure = store.read(job.id).failure
    assert failure is not None
    assert failure.code == "deadline_exceeded"
    assert "no replica yet" in failure.message


def test_refusals_in_a_row_are_waited_out_for_longer() -> None:
    refusal, setbacks = OverloadedError("full", None, 5), Setbacks()
    delays = []
    for _ in range(5):
        setbacks.add(refusal, num_lost=0)
        delays.append(retry_delay_s(refusal, setbacks))

    assert delays == [5.0, 10.0, 20.0, 30.0, 30.0]


def test_a_lost_replica_ends_the_row_of_refusals() -> None:
    setbacks = Setbacks(num_refusals=3)
    lost = ReplicaLostError("lost", None, 5)
    setbacks.add(lost, num_lost=1)

    assert (setbacks.num_refusals, retry_delay_s(lost, setbacks)) == (0, 1.0)


async def test_a_job_is_given_up_when_all_that_is_left_of_it_waits() -> None:
    room = RoomWait(3)
    async with asyncio.TaskGroup() as group:
        group.create_task(room.sleep(60.0))
        group.create_task(room.sleep(60.0))
        await asyncio.sleep(0)
        assert not room.is_given_up
        room.leave()

    assert room.is_given_up


async def test_a_job_goes_on_whose_wait_is_over_before_the_others_wait() -> None:
    room = RoomWait(2)
    await room.sleep(0.0)
    await room.sleep(0.0)

    assert not room.is_given_up


class ColdChooser(FirstPoolChooser):
    """Has a pool whose first replica never starts."""

    def __init__(self) -> None:
        super().__init__({"cold": RenderPath.FULL_IMAGE})

    async def await_replica(self, route: Route) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()


async def test_a_job_does_not_wait_for_a_replica_while_it_runs(
    model: LoadedModel, rules: RequestRules, store: JobStore, tmp_path: Path
) -> None:
    images = FolderImageStore(FolderStoreOptions(tmp_path, "http://test"))
    generation = Generation(
        model.stages,
        ColdChooser(),
        images,
        model.described,
        threads=StoreThreads(),
        key_prefix="images",
    )
    order = rules.to_order(body_of(1), request_id="r")
    with pytest.raises(OverloadedError, match="pool cold has no replica yet"):
        await generation.draw(replace(order, outwaits_start=False))
