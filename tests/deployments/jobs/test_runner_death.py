"""A runner that dies, or only seems to, costs time and never a result."""

import contextlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from job_orders import accept_job
from jobs_app import LoadedModel
from redis_server import run_redis
from runner_process import open_store

from cluster.jobs.job import Job, JobStatus
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from deployments.config import AppConfig
from deployments.jobs.outcomes import StoredOutcome
from deployments.validation import RequestRules

LEASE_S: Final = 1.0
WITHIN_S: Final = 90.0
NUM_JOBS: Final = 6
SUPPORT: Final = Path(str(sys.modules["runner_process"].__file__))
ROOT: Final = SUPPORT.parents[2]


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "jobs.sqlite3")
        return
    with run_redis(tmp_path) as server:
        yield server.url


@pytest.fixture
def store(place: str) -> Iterator[JobStore]:
    with contextlib.closing(open_store(place)) as records:
        yield JobStore(records, JobPolicy(lease_s=LEASE_S, max_attempts=4, retention_s=600.0))


@pytest.fixture
def rules(model: LoadedModel) -> RequestRules:
    return RequestRules.from_config(AppConfig(), model.described)


@contextlib.contextmanager
def run_runner(
    place: str, name: str, log: Path, *, step_s: float
) -> "Iterator[subprocess.Popen[str]]":
    arguments = [place, name, str(step_s), str(LEASE_S), str(log)]
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT), *arguments],
        env={"PYTHONPATH": f"{ROOT}:{SUPPORT.parent}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("running")
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begun(log: Path) -> list[tuple[str, str]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(line.split()[0], line.split()[1]) for line in lines]


def all_ended(store: JobStore, jobs: list[Job]) -> bool:
    return all(store.read(job.id).status.is_final for job in jobs)


def drawn_by(store: JobStore, job: Job) -> list[str | None]:
    outcomes = store.read_outcomes(job.id).values()
    answers = [StoredOutcome.model_validate_json(each).answer for each in outcomes]
    return [answer.fingerprint for answer in answers if answer is not None]


def test_jobs_of_a_killed_runner_end_once_elsewhere(
    store: JobStore, rules: RequestRules, place: str, tmp_path: Path
) -> None:
    log = tmp_path / "begun"
    jobs = [accept_job(store, rules, number) for number in range(NUM_JOBS)]
    with run_runner(place, "first", log, step_s=0.2) as first:
        wait_until(lambda: len(begun(log)) >= 3)
        first.kill()
        first.wait()
    lost = {id for name, id in begun(log)} - {
        order for job in jobs for order in finished_orders(store, job)
    }
    with run_runner(place, "second", log, step_s=0.01):
        wait_until(lambda: all_ended(store, jobs))

    assert {store.read(job.id).status for job in jobs} == {JobStatus.SUCCEEDED}
    assert {len(store.read_outcomes(job.id)) for job in jobs} == {1}
    assert lost
    times = Counter(id for _, id in begun(log))
    assert {id: times[id] for id in lost} == dict.fromkeys(lost, 2)
    assert len(times) == NUM_JOBS


def finished_orders(store: JobStore, job: Job) -> list[str]:
    outcomes = store.read_outcomes(job.id).values()
    answers = [StoredOutcome.model_validate_json(each).answer for each in outcomes]
    return [answer.data[0].key.split("/")[1] for answer in answers if answer is not None]


def test_a_runner_that_was_only_stopped_adds_nothing_when_it_wakes(
    store: JobStore, rules: RequestRules, place: str, tmp_path: Path
) -> None:
    log = tmp_path / "begun"
    jobs = [accept_job(store, rules, 0)]
    with run_runner(place, "first", log, step_s=0.3) as first:
        wait_until(lambda: len(begun(log)) == 1)
        first.send_signal(signal.SIGSTOP)
        with run_runner(place, "second", log, step_s=0.01):
            wait_until(lambda: all_ended(store, jobs))
            ended = store.read(jobs[0].id)
            first.send_signal(signal.SIGCONT)
            late = accept_job(store, rules, 1)
            wait_until(lambda: all_ended(store, [late]))
            first.send_signal(signal.SIGSTOP)

    assert drawn_by(store, jobs[0]) == ["second"]
    assert store.read(jobs[0].id) == ended


def test_a_batch_goes_on_where_its_runner_died(
    store: JobStore, rules: RequestRules, place: str, tmp_path: Path
) -> None:
    log = tmp_path / "begun"
    batch = accept_job(store, rules, 0, num_items=8)
    with run_runner(place, "first", log, step_s=0.1) as first:
        wait_until(lambda: len(store.read_outcomes(batch.id)) >= 2)
        first.kill()
        first.wait()
    kept = finished_orders(store, batch)
    with run_runner(place, "second", log, step_s=0.01):
        wait_until(lambda: all_ended(store, [batch]))

    assert store.read(batch.id).status is JobStatus.SUCCEEDED
    assert len(store.read_outcomes(batch.id)) == 8
    again = {id for name, id in begun(log) if name == "second"}
    assert again.isdisjoint(kept)
    assert Counter(drawn_by(store, batch))["first"] == len(kept)
