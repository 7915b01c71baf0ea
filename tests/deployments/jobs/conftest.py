"""One application over a tiny model, on either kind of job store."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_app import LoadedModel, RunningApi, app_config, load_model, run_api
from redis_server import run_redis


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> LoadedModel:
    return load_model(tiny_model)


@pytest.fixture(params=["sqlite", "redis"])
def job_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    if request.param == "sqlite":
        yield {"kind": "sqlite"}
        return
    with run_redis(tmp_path) as server:
        yield {"kind": "redis", "url": server.url}


@pytest.fixture
async def api(
    tmp_path: Path, model: LoadedModel, job_store: dict[str, Any]
) -> AsyncIterator[RunningApi]:
    config = app_config(tmp_path, model.source, jobs={"store": job_store, "max_running_jobs": 2})
    async with run_api(config, model) as api:
        yield api
