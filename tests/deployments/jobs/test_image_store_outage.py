"""An image store that is away for a while costs a job time, and few drawings."""

from pathlib import Path
from typing import Any

import pytest
from jobs_app import LoadedModel, app_config, run_api

from cluster.errors import StoreUnavailableError
from cluster.storage import FolderImageStore
from deployments.errors import ApiError, DependencyError, OverloadedError
from deployments.jobs.setbacks import Setbacks, retry_delay_s

BODY = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 2}


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[StoreUnavailableError]:
    """Errors that the image store raises first, one a file."""
    put, failures = FolderImageStore.put, [StoreUnavailableError("away")]

    def fail(store: FolderImageStore, key: str, *args: Any, **options: Any) -> None:
        if failures and "warm-up" not in key:
            raise failures.pop()
        put(store, key, *args, **options)

    monkeypatch.setattr(FolderImageStore, "put", fail)
    return failures


async def test_a_job_stores_the_picture_at_hand_when_its_store_comes_back(
    tmp_path: Path, model: LoadedModel, failures: list[StoreUnavailableError]
) -> None:
    async with run_api(app_config(tmp_path, model.source), model) as api:
        job = await api.finish((await api.post("jobs", BODY)).json()["id"])

    assert job["status"] == "succeeded"
    assert not failures
    assert list(api.stages.drawn().values()) == [1]


async def test_a_caller_who_waits_is_told_at_once_that_the_store_is_away(
    tmp_path: Path, model: LoadedModel, failures: list[StoreUnavailableError]
) -> None:
    async with run_api(app_config(tmp_path, model.source), model) as api:
        answer = await api.post("generations", BODY)

    assert answer.status_code == 503
    assert not failures


@pytest.mark.parametrize(
    ("error", "num_outages", "expected"),
    [
        (DependencyError("away", None, 5), 1, 5.0),
        (DependencyError("away", None, 5), 2, 10.0),
        (DependencyError("away", None, 5), 3, 20.0),
        (DependencyError("away", None, 5), 4, 30.0),
        (DependencyError("away", None, 5), 10_000, 30.0),
        (OverloadedError("full", None, 5), 0, 5.0),
    ],
)
def test_each_outage_in_a_row_is_waited_out_for_longer(
    error: ApiError, num_outages: int, expected: float
) -> None:
    assert retry_delay_s(error, Setbacks(num_outages=num_outages)) == expected
