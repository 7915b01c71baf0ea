"""A hundred jobs, and a process of each kind killed in their midst: a hundred results."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from ray_processes import TITLES, await_processes, find_processes
from redis_server import RedisServer, run_redis
from service import Service, run_service

from cluster.jobs.job import JobStatus
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from cluster.records import RedisRecordStore
from cluster.telemetry import Outcome
from cluster.usage import UsageRecord, merge_records, read_records
from pipeline.image_file import read_provenance

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(900)]

NUM_JOBS: Final = 100
WITHIN_S: Final = 300.0
REDIS_AWAY_S: Final = 2.0
BODY: Final = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 10}
NUM_PROCESSES: Final = {"router": 2, "denoiser": 2}
SEEDS: Final = count(1)
"""No seed comes twice, so that no picture can pass for another."""


@dataclass(frozen=True)
class Jobs:
    """A service whose jobs are in Redis, and every place that knows of them."""

    service: Service
    redis: RedisServer
    images: Path
    usage: Path

    def accept(self) -> list[str]:
        """Have a hundred jobs accepted, and return their ids."""
        url = f"{self.service.url}/v1/images/jobs"
        with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as threads:
            answers = threads.map(
                lambda seed: client.post(url, json={**BODY, "seed": seed}),
                [next(SEEDS) for _ in range(NUM_JOBS)],
            )
            return [answer.raise_for_status().json()["id"] for answer in answers]

    def read(self, id: str) -> dict[str, Any]:
        """Read a job over HTTP, from whichever router answers."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            try:
                answer = httpx.get(f"{self.service.url}/v1/images/jobs/{id}", timeout=30)
                if answer.status_code < 500:
                    return dict(answer.raise_for_status().json())
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"job {id} cannot be read"
            time.sleep(0.2)

    def finish(self, id: str) -> dict[str, Any]:
        """Return a job when it has ended."""
        deadline = time.monotonic() + WITHIN_S
        while (job := self.read(id))["status"] in ("queued", "running"):
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
        return job

    def open_store(self) -> JobStore:
        """Open the store itself, as a router does."""
        return JobStore(RedisRecordStore(self.redis.url), JobPolicy(3.0, 4, 600.0))

    def kept_keys(self) -> set[str]:
        """Return the keys of all pictures in the image store."""
        return {str(path.relative_to(self.images)) for path in self.images.rglob("*.png")}

    def records(self, ids: set[str]) -> dict[str, UsageRecord]:
        """Return the exported usage records, as soon as those ids are among them."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            records = merge_records(read_records(sorted(self.usage.glob("*.jsonl"))))
            if ids <= set(records):
                return records
            assert time.monotonic() < deadline, f"{ids - set(records)} have no record"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "redis").mkdir()
    with run_redis(folder / "redis") as redis:
        config = {
            "router": {"num_replicas": NUM_PROCESSES["router"]},
            "pools": [{"min_replicas": 2, "max_replicas": 2, "num_threads": 1}],
            "jobs": {
                "lease_s": 3,
                "max_running_jobs": 8,
                "store": {"kind": "redis", "url": redis.url},
            },
            "usage": {
                "enabled": True,
                "journal": str(folder / "journal"),
                "export": {"folder": str(folder / "usage")},
                "export_period_s": 0.5,
            },
        }
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        images = folder / "images"
        with run_service(folder, "--config", str(file), "--store", str(images)) as service:
            yield Jobs(service, redis, images, folder / "usage")


def await_work(jobs: Jobs) -> int:
    """Wait until pictures come out, and return how many jobs have not ended."""
    store = jobs.open_store()
    deadline = time.monotonic() + WITHIN_S
    while True:
        latest = store.list_of("anonymous", after=None, limit=NUM_JOBS)
        unfinished = sum(not job.status.is_final for job in latest)
        if unfinished < NUM_JOBS:
            store.records.close()
            return unfinished
        assert time.monotonic() < deadline, "no job ends"
        time.sleep(0.01)


def kill(jobs: Jobs, kind: str) -> None:
    """Kill a process of a kind at once; Redis comes back on the file that it wrote."""
    if kind == "Redis":
        jobs.redis.kill()
        time.sleep(REDIS_AWAY_S)
        jobs.redis.start()
    else:
        find_processes(jobs.service, kind)[0].kill()


@pytest.mark.parametrize("kind", [*TITLES, "Redis"])
def test_a_hundred_jobs_have_a_hundred_results_when_it_dies(jobs: Jobs, kind: str) -> None:
    before = jobs.kept_keys()
    ids = jobs.accept()
    num_unfinished = await_work(jobs)
    kill(jobs, kind)
    results = [jobs.finish(id) for id in ids]

    assert num_unfinished > NUM_JOBS // 2
    assert {(job["status"], job.get("error", {}).get("code")) for job in results} == {
        ("succeeded", None)
    }
    check_that_all_agree(jobs, results, before)
    check_that_it_came_back(jobs, kind)


def check_that_all_agree(jobs: Jobs, results: list[dict[str, Any]], before: set[str]) -> None:
    """Compare answers, job store, image store and usage records with each other."""
    items = [item for job in results for item in job["result"]["data"]]
    keys = {item["key"] for item in items}
    assert len(items) == len(keys) == NUM_JOBS
    assert jobs.kept_keys() - before == keys
    drawn = {read_provenance((jobs.images / item["key"]).read_bytes()).seed for item in items}
    assert drawn == {item["seed"] for item in items}

    store = jobs.open_store()
    kept = [store.read(job["id"]) for job in results]
    assert {job.status for job in kept} == {JobStatus.SUCCEEDED}
    outcomes = [store.read_outcomes(job.id) for job in kept]
    assert {json.loads(outcome[0])["answer"]["data"][0]["key"] for outcome in outcomes} == keys
    store.records.close()

    image_ids = {key.split("/")[-2] for key in keys}
    records = [jobs.records(image_ids)[id] for id in image_ids]
    assert {record.outcome for record in records} == {Outcome.SUCCEEDED}
    assert {key for record in records for key in record.keys} == keys
    assert len(jobs.records(image_ids)) == len(jobs.kept_keys())


def check_that_it_came_back(jobs: Jobs, kind: str) -> None:
    """See the process replaced, and a picture drawn at once."""
    if kind in TITLES:
        await_processes(jobs.service, kind, NUM_PROCESSES.get(kind, 1))
    answer = httpx.get(f"{jobs.service.url}/readyz", timeout=30)
    assert answer.status_code == 200
