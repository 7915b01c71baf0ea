"""A runner goes on with its other jobs, whatever becomes of one."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from job_orders import accept_job, answer_of
from jobs_app import LoadedModel, wait_until

from cluster.errors import RecordStoreConfigurationError
from cluster.jobs.job import Job, JobFailure, JobStatus, Lane
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from cluster.records import SqliteRecordStore
from deployments.config import AppConfig
from deployments.generation import EventListener, ImagesOrder
from deployments.jobs.estimates import MeasuredEstimate
from deployments.jobs.execution import JobExecution
from deployments.jobs.room import Wait
from deployments.jobs.runner import JobRunner
from deployments.schemas import ImagesResponse
from deployments.store_threads import StoreThreads
from deployments.validation import RequestRules

LEASE_S: Final = 60.0
REFUSED: Final = RecordStoreConfigurationError("the job store refused the password")


class JumpingClock(SqliteRecordStore):
    """A record store whose clock can be put forward."""

    ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


@pytest.fixture
def records(tmp_path: Path) -> Iterator[JumpingClock]:
    with contextlib.closing(JumpingClock(tmp_path / "jobs.sqlite3")) as records:
        yield records


@pytest.fixture
def store(records: JumpingClock) -> JobStore:
    return JobStore(records, JobPolicy(lease_s=LEASE_S, max_attempts=4, retention_s=600.0))


@pytest.fixture
def rules(model: LoadedModel) -> RequestRules:
    return RequestRules.from_config(AppConfig(), model.described)


class Drawing:
    """Counts what is begun, and ends it when its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun: Counter[str] = Counter()

    async def __call__(self, order: ImagesOrder, _: EventListener | None) -> ImagesResponse:
        self.begun[order.id] += 1
        await self.gate.wait()
        return answer_of(order, "here")


class StoreFails(JobExecution):
    """An execution that the store's failure ends, along with another one's."""

    async def run(
        self, job: Job, seconds_left: float, on_progress: Callable[[], None]
    ) -> JobFailure | Wait | None:
        """Raise both."""
        raise ExceptionGroup("both", [RuntimeError("unexpected"), REFUSED])


class SlowClaims(JobStore):
    """A store whose claims end when its gate is open."""

    def __init__(self, store: JobStore) -> None:
        super().__init__(store.records, store.policy)
        self.gate = threading.Event()
        self.num_begun = self.num_ended = 0

    def claim(self, lane: Lane, *, waiting_first: bool = False) -> Job | None:
        """Claim a job when it may."""
        self.num_begun += 1
        self.gate.wait()
        job = super().claim(lane, waiting_first=waiting_first)
        self.num_ended += 1
        return job


@contextlib.asynccontextmanager
async def run_jobs(
    store: JobStore, kind: type[JobExecution] = JobExecution
) -> AsyncIterator[Drawing]:
    drawing, threads = Drawing(), StoreThreads()
    execution = kind(drawing, store, threads, MeasuredEstimate(), max_batch_concurrency=1)
    runner = JobRunner(execution, store, threads, num_slots={Lane.INTERACTIVE: 2}, poll_s=0.02)
    runner.start()
    try:
        yield drawing
    finally:
        await runner.stop()
        threads.stop()


async def wait_for_success(store: JobStore, job: Job) -> None:
    await wait_until(lambda: store.read(job.id).status is JobStatus.SUCCEEDED)


def fail_once(
    monkeypatch: pytest.MonkeyPatch, store: JobStore, name: str, failure: Exception
) -> None:
    method, failures = getattr(store, name), [failure]

    def fail(*args: Any, **named: Any) -> Any:
        if failures:
            raise failures.pop()
        return method(*args, **named)

    monkeypatch.setattr(store, name, fail)


async def test_a_job_that_is_claimed_again_by_its_own_runner_ends_and_so_does_the_next(
    store: JobStore, records: JumpingClock, rules: RequestRules
) -> None:
    job = accept_job(store, rules, 0)
    async with run_jobs(store) as drawing:
        await wait_until(lambda: drawing.begun.total() == 1)
        records.ahead_s = LEASE_S + 1.0
        await wait_until(lambda: drawing.begun.total() == 2)
        drawing.gate.set()
        await wait_for_success(store, job)
        await wait_for_success(store, accept_job(store, rules, 1))


@pytest.mark.parametrize("name", ["claim", "finish"])
async def test_an_unexpected_error_of_the_store_does_not_end_the_runner(
    store: JobStore,
    rules: RequestRules,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    fail_once(monkeypatch, store, name, RuntimeError("unexpected"))
    accept_job(store, rules, 0)
    async with run_jobs(store) as drawing:
        drawing.gate.set()
        await wait_until(lambda: "unexpected" in caplog.text)
        await wait_for_success(store, accept_job(store, rules, 1))


@pytest.mark.parametrize("name", ["read_payload", "append_event", "put_outcome", "finish"])
async def test_a_store_that_refuses_the_password_for_a_while_costs_a_job_nothing(
    store: JobStore, rules: RequestRules, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fail_once(monkeypatch, store, name, REFUSED)
    job = accept_job(store, rules, 0)
    async with run_jobs(store) as drawing:
        drawing.gate.set()
        await wait_for_success(store, job)


async def test_a_job_is_left_to_its_lease_where_the_store_failed(
    store: JobStore, rules: RequestRules, caplog: pytest.LogCaptureFixture
) -> None:
    job = accept_job(store, rules, 0)
    async with run_jobs(store, StoreFails):
        await wait_until(lambda: f"{job.id} is left to its lease" in caplog.text)

    assert store.read(job.id).status is JobStatus.RUNNING


async def test_a_job_whose_claim_ends_after_the_runner_is_stopped_is_put_back(
    store: JobStore, rules: RequestRules
) -> None:
    slow, job = SlowClaims(store), accept_job(store, rules, 0)
    async with run_jobs(slow):
        await wait_until(lambda: slow.num_begun)
        threading.Timer(0.05, slow.gate.set).start()
    await wait_until(lambda: slow.num_ended)

    left = store.read(job.id)
    assert (left.status, left.attempts) == (JobStatus.QUEUED, 0)
