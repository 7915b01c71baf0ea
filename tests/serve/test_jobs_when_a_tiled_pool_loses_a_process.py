"""A hundred tiled jobs, and what steps the canvases or holds a node's replicas is killed."""

from collections.abc import Iterator
from functools import partial
from typing import Final

import psutil
import pytest
from fault_load import await_successor, kill, replica
from many_jobs import LEASE_S, NUM_JOBS, ManyJobs
from mixed_faults import run_mixed
from ray_session import command_of
from service import Service
from usage_config import usage_config

from cluster.records import SqliteRecordStore

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(900)]

BODY: Final = {
    "prompt": "a red circle",
    "size": "192x128",
    "path": "tiled",
    "num_inference_steps": 4,
}
COORDINATOR: Final = replica("TileCoordinatorDeployment-consumer-16gb")
TILES: Final = replica("DenoiserDeployment-consumer-16gb")
NODE: Final = "consumer-2"
REPLACED_WITHIN_S: Final = 120.0


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManyJobs]:
    folder = tmp_path_factory.mktemp("jobs")
    store = folder / "jobs.sqlite3"
    settings = {
        "jobs": {"lease_s": LEASE_S, "store": {"kind": "sqlite", "path": str(store)}},
        **usage_config(folder),
    }
    with run_mixed(folder, {}, settings) as service:
        yield ManyJobs(service, folder, partial(SqliteRecordStore, store), BODY)


def test_a_hundred_jobs_have_a_hundred_results_when_the_coordinator_dies(jobs: ManyJobs) -> None:
    before = jobs.kept_keys()
    ids = jobs.accept()
    num_unfinished = jobs.await_work()
    dead = kill(jobs.service, COORDINATOR)
    results = jobs.finish(ids)

    assert num_unfinished > NUM_JOBS // 2
    jobs.check(results, before)
    await_successor(jobs.service, dead, within_s=REPLACED_WITHIN_S)


# Last, since nothing brings the node back.
def test_a_hundred_jobs_have_a_hundred_results_when_a_nodes_raylet_dies(jobs: ManyJobs) -> None:
    before = jobs.kept_keys()
    raylet = find_raylet(jobs.service)
    held = [process for process in raylet.children() if TILES.mark in command_of(process)]
    ids = jobs.accept()
    num_unfinished = jobs.await_work()
    raylet.kill()
    results = jobs.finish(ids)

    assert len(held) == 1
    assert num_unfinished > NUM_JOBS // 2
    jobs.check(results, before)


def find_raylet(service: Service) -> psutil.Process:
    """Return the node's raylet, whose command names the node's own folder."""
    [raylet] = [
        process
        for process in psutil.Process(service.process.pid).children(recursive=True)
        if process.name() == "raylet" and f"/{NODE}/" in command_of(process)
    ]
    return raylet
