import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs.job import Job, JobKind, JobStatus, Lane
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from cluster.records import SqliteRecordStore
from cluster.storage.folder import FolderImageStore, FolderStoreOptions
from deployments.generation import ImagesOrder
from deployments.jobs.descriptions import JobDescriber
from deployments.jobs.estimates import MeasuredEstimate
from deployments.jobs.outcomes import OutcomeReader
from deployments.store_threads import StoreThreads
from pipeline.image_file import OutputFormat
from pipeline.request import ImageSize, Priority

SIDES = (512, 1024, 2048)


def make_order(side: int) -> ImagesOrder:
    return ImagesOrder(
        id="img-1",
        request_id="r",
        accepted=datetime.now(UTC),
        prompt="x",
        num_images=1,
        size=ImageSize(side, side),
        seed=1,
        num_inference_steps=8,
        priority=Priority.INTERACTIVE,
        timeout_s=60.0,
        pinned_path=None,
        output_format=OutputFormat.PNG,
        output_compression=None,
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("seed", range(10))
def test_twenty_pictures_of_mixed_sizes_bring_an_estimate_within_15_percent(
    seed: int, side: int
) -> None:
    draws, estimate = random.Random(seed), MeasuredEstimate()
    for index in range(21):
        order = make_order(SIDES[index % len(SIDES)])
        estimate.observe(order, order.cost_units / 40 * draws.lognormvariate(0, 0.05))

    order = make_order(side)
    assert estimate(order) == pytest.approx(order.cost_units / 40, rel=0.15)


def make_job(lane: Lane, **changes: Any) -> Job:
    job = Job(
        id="job-1",
        owner="anonymous",
        request_id="r",
        kind=JobKind.BATCH,
        lane=lane,
        num_items=1,
        created_at=0.0,
        deadline_at=9000.0,
        estimate_s=600.0,
    )
    return replace(job, **changes)


@pytest.fixture
def describer(tmp_path: Path) -> Iterator[JobDescriber]:
    images = FolderImageStore(FolderStoreOptions(tmp_path, "http://test"))
    threads, slots = StoreThreads(), {Lane.INTERACTIVE: 8, Lane.BATCH: 2}
    with contextlib.closing(SqliteRecordStore(tmp_path / "jobs.sqlite3")) as records:
        store = JobStore(records, JobPolicy(lease_s=9.0, max_attempts=1, retention_s=9.0))
        outcomes = OutcomeReader(images, threads, url_lifetime_s=60)
        yield JobDescriber(store, threads, outcomes, num_slots=slots)
    threads.stop()


@pytest.mark.parametrize(("lane", "expected"), [(Lane.INTERACTIVE, 600.0), (Lane.BATCH, 2400.0)])
def test_a_job_waits_for_the_slots_of_its_own_lane(
    describer: JobDescriber, lane: Lane, expected: float
) -> None:
    assert describer.describe_queued(make_job(lane), 6).estimate_s == expected


@pytest.mark.parametrize(("ran_s", "expected"), [(100.0, 500.0), (900.0, 0.0)])
async def test_what_a_running_job_has_run_is_taken_off_its_estimate(
    describer: JobDescriber, ran_s: float, expected: float
) -> None:
    begun_at = time.time() - ran_s
    job = make_job(Lane.BATCH, status=JobStatus.RUNNING, lease="a", begun_at=begun_at)
    body = await describer.describe(job)

    assert body.estimate_s == pytest.approx(expected, abs=30.0)
