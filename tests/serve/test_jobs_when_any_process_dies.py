"""A hundred jobs, and a process of each kind killed in their midst: a hundred results."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import httpx
import pytest
import yaml
from many_jobs import LEASE_S, NUM_JOBS, ManyJobs
from ray_processes import HELPERS, TITLES, await_processes, find_processes
from redis_server import RedisServer, run_redis
from service import run_service
from usage_config import usage_config

from cluster.records import RedisRecordStore

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(900)]

REDIS_AWAY_S: Final = 2.0
BODY: Final = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 10}
NUM_PROCESSES: Final = {"router": 2, "denoiser": 2}


@dataclass(frozen=True)
class Run:
    """A service whose jobs are in Redis."""

    jobs: ManyJobs
    redis: RedisServer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "redis").mkdir()
    with run_redis(folder / "redis") as redis:
        config = {
            "router": {"num_replicas": NUM_PROCESSES["router"]},
            "pools": [{"min_replicas": 2, "max_replicas": 2, "num_threads": 1}],
            "jobs": {
                "lease_s": LEASE_S,
                "max_running_jobs": 8,
                "store": {"kind": "redis", "url": redis.url},
            },
            **usage_config(folder),
        }
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        options = ("--config", str(file), "--store", str(folder / "images"))
        with run_service(folder, *options) as service:
            open_records = partial(RedisRecordStore, redis.url)
            yield Run(ManyJobs(service, folder, open_records, BODY), redis)


def kill(run: Run, kind: str) -> None:
    """Kill a process of a kind at once; Redis comes back on the file that it wrote."""
    if kind == "Redis":
        run.redis.kill()
        time.sleep(REDIS_AWAY_S)
        run.redis.start()
    else:
        find_processes(run.jobs.service, kind)[0].kill()


@pytest.mark.parametrize("kind", [*TITLES, "Redis", *HELPERS])
def test_a_hundred_jobs_have_a_hundred_results_when_it_dies(run: Run, kind: str) -> None:
    before = run.jobs.kept_keys()
    ids = run.jobs.accept()
    num_unfinished = run.jobs.await_work()
    kill(run, kind)
    results = run.jobs.finish(ids)

    assert num_unfinished > NUM_JOBS // 2
    run.jobs.check(results, before)
    check_that_it_came_back(run, kind)


def check_that_it_came_back(run: Run, kind: str) -> None:
    """See the process replaced, and a picture drawn at once."""
    if kind in TITLES:
        await_processes(run.jobs.service, kind, NUM_PROCESSES.get(kind, 1))
    answer = httpx.get(f"{run.jobs.service.url}/readyz", timeout=30)
    assert answer.status_code == 200
