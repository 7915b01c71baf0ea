"""One application over a tiny model, on either kind of job store."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from caller_api import write_keys
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


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    return write_keys(
        tmp_path / "keys.yaml",
        alice={},
        bob={},
        interactive={"priorities": ["interactive"]},
        other={"models": ["another-model"]},
        once={"units_per_minute": 0.3},
        single={"max_concurrent_requests": 1},
    )


@pytest.fixture
async def keyed_api(
    tmp_path: Path, model: LoadedModel, job_store: dict[str, Any], keys: dict[str, str]
) -> AsyncIterator[RunningApi]:
    """An application that asks for keys; calls are alice's unless they say otherwise."""
    config = app_config(
        tmp_path,
        model.source,
        jobs={"store": job_store},
        keys={"file": str(tmp_path / "keys.yaml")},
    )
    async with run_api(config, model, key=keys["alice"]) as api:
        yield api
