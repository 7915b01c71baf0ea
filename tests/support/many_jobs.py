"""A hundred jobs, and every place that must agree on what became of them."""

import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
from job_polling import WITHIN_S, finish_job
from PIL import Image
from service import Service

from cluster.jobs.job import JobStatus
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from cluster.records import RecordStore
from cluster.telemetry import Outcome
from cluster.usage import UsageRecord, merge_records, read_records
from pipeline.image_file import read_provenance

NUM_JOBS: Final = 100
LEASE_S: Final = 3.0
_NUM_DRAWN_AGAIN: Final = 10
_SEEDS: Final = count(1)
"""No seed comes twice, so that no picture can pass for another."""

Results = list[dict[str, Any]]


@dataclass(frozen=True)
class ManyJobs:
    """Callers of a service, and what it keeps beyond its own end."""

    service: Service
    folder: Path
    """Has `images`, and `usage` records."""
    open_records: Callable[[], RecordStore]
    """Opens the job store's own records, as a router does."""
    body: dict[str, Any]

    def accept(self) -> list[str]:
        """Have the jobs accepted, and return their ids."""
        url = f"{self.service.url}/v1/images/jobs"
        with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as threads:
            answers = threads.map(
                lambda seed: client.post(url, json={**self.body, "seed": seed}),
                [next(_SEEDS) for _ in range(NUM_JOBS)],
            )
            return [answer.raise_for_status().json()["id"] for answer in answers]

    def await_work(self) -> int:
        """Wait until pictures come out, and return how many jobs have not ended."""
        store = self.open_store()
        deadline = time.monotonic() + WITHIN_S
        while True:
            latest = store.list_of("anonymous", after=None, limit=NUM_JOBS)
            unfinished = sum(not job.status.is_final for job in latest)
            if unfinished < NUM_JOBS:
                store.records.close()
                return unfinished
            assert time.monotonic() < deadline, "no job ends"
            time.sleep(0.01)

    def finish(self, ids: list[str]) -> Results:
        """Return the jobs when all have ended."""
        return [finish_job(self.service.url, id) for id in ids]

    def open_store(self) -> JobStore:
        """Open the store itself."""
        return JobStore(self.open_records(), JobPolicy(LEASE_S, 4, 600.0))

    def kept_keys(self) -> set[str]:
        """Return the keys of all pictures in the image store."""
        images = self.folder / "images"
        return {str(path.relative_to(images)) for path in images.rglob("*.png")}

    def records(self, ids: set[str]) -> dict[str, UsageRecord]:
        """Return the exported usage records, as soon as those ids are among them."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            files = sorted((self.folder / "usage").glob("*.jsonl"))
            records = merge_records(read_records(files))
            if ids <= set(records):
                return records
            assert time.monotonic() < deadline, f"{ids - set(records)} have no record"
            time.sleep(0.2)

    def check(self, results: Results, before: set[str]) -> None:
        """Compare answers, job store, image store, usage records and pixels with each other."""
        assert {(job["status"], job.get("error", {}).get("code")) for job in results} == {
            ("succeeded", None)
        }
        items = [item for job in results for item in job["result"]["data"]]
        keys = {item["key"] for item in items}
        assert len(items) == len(keys) == NUM_JOBS
        assert self.kept_keys() - before == keys
        assert {self._provenance_seed(key) for key in keys} == {item["seed"] for item in items}
        self._check_store(results, keys)
        self._check_usage(keys)
        for item in items[:: NUM_JOBS // _NUM_DRAWN_AGAIN]:
            assert self._pixels(item["key"]) == self._draw(item["seed"])

    def _provenance_seed(self, key: str) -> int:
        return read_provenance((self.folder / "images" / key).read_bytes()).seed

    def _check_store(self, results: Results, keys: set[str]) -> None:
        store = self.open_store()
        kept = [store.read(job["id"]) for job in results]
        assert {job.status for job in kept} == {JobStatus.SUCCEEDED}
        outcomes = [store.read_outcomes(job.id) for job in kept]
        answers = [json.loads(outcome[0])["answer"] for outcome in outcomes]
        assert {answer["data"][0]["key"] for answer in answers} == keys
        store.records.close()

    def _check_usage(self, keys: set[str]) -> None:
        ids = {key.split("/")[-2] for key in keys}
        records = [self.records(ids)[id] for id in ids]
        assert {record.outcome for record in records} == {Outcome.SUCCEEDED}
        assert {key for record in records for key in record.keys} == keys
        assert len(self.records(ids)) == len(self.kept_keys())

    def _pixels(self, key: str) -> bytes:
        with Image.open(self.folder / "images" / key) as image:
            return image.tobytes()

    def _draw(self, seed: int) -> bytes:
        """Draw a seed's picture undisturbed."""
        body = {**self.body, "seed": seed, "response_format": "b64_json"}
        url = f"{self.service.url}/v1/images/generations"
        answer = httpx.post(url, json=body, timeout=WITHIN_S).raise_for_status().json()
        with Image.open(BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))) as image:
            return image.tobytes()
