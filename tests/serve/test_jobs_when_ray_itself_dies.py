"""A hundred jobs, and Ray itself is killed in their midst: the service that follows draws them.

Nothing replaces Ray's control store and the head's raylet, so the service ends with them, and its
supervisor, here the test, starts it again. The jobs are in a store that outlives both.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import yaml
from many_jobs import LEASE_S, NUM_JOBS, ManyJobs
from redis_server import run_redis
from service import Service, run_service
from usage_config import usage_config

from cluster.records import RecordStore, RedisRecordStore, SqliteRecordStore

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(900)]

BODY: Final = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 10}
ENDED_WITHIN_S: Final = 90.0


@dataclass(frozen=True)
class Store:
    """A job store as the configuration names it, and as a router opens it."""

    config: dict[str, Any]
    open_records: Callable[[], RecordStore]


@contextmanager
def sqlite(folder: Path) -> Iterator[Store]:
    file = folder / "jobs.sqlite3"
    yield Store({"kind": "sqlite", "path": str(file)}, partial(SqliteRecordStore, file))


@contextmanager
def redis(folder: Path) -> Iterator[Store]:
    with run_redis(folder) as server:
        yield Store({"kind": "redis", "url": server.url}, partial(RedisRecordStore, server.url))


@pytest.mark.parametrize("store", [sqlite, redis])
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_hundred_jobs_have_a_hundred_results_when_the_service_is_started_again(
    tmp_path: Path, name: str, store: Any
) -> None:
    with store(tmp_path) as opened:
        options = configure(tmp_path, opened)
        with run_service(tmp_path, *options) as service:
            jobs = ManyJobs(service, tmp_path, opened.open_records, BODY)
            ids = jobs.accept()
            num_unfinished = jobs.await_work()
            kill(service, name)
            exit_code = service.process.wait(ENDED_WITHIN_S)
        with run_service(tmp_path, *options) as successor:
            jobs = replace(jobs, service=successor)
            results = jobs.finish(ids)
            jobs.check(results, set())

    assert exit_code == 1
    assert num_unfinished > NUM_JOBS // 2


def configure(folder: Path, store: Store) -> tuple[str, ...]:
    """Write the configuration, and return the options that name it."""
    config = {
        "pools": [{"num_threads": 1}],
        "jobs": {"lease_s": LEASE_S, "max_running_jobs": 8, "store": store.config},
        **usage_config(folder),
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return "--config", str(file), "--store", str(folder / "images")


def kill(service: Service, name: str) -> None:
    [process] = [
        each
        for each in psutil.Process(service.process.pid).children(recursive=True)
        if each.name() == name
    ]
    process.kill()
