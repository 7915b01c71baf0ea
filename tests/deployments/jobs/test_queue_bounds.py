"""What waits in the store is bounded, and what is refused is not charged."""

from pathlib import Path
from typing import Any

import pytest
from jobs_app import LoadedModel, app_config, bearer, run_api

BODY = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 4}


async def test_jobs_are_refused_while_those_that_wait_take_too_many_bytes(
    tmp_path: Path, model: LoadedModel, job_store: dict[str, Any]
) -> None:
    jobs = {"store": job_store, "max_queued_bytes": 5000}
    async with run_api(app_config(tmp_path, model.source, jobs=jobs), model) as api:
        api.stages.gate.clear()
        first = await api.post("batches", {"requests": 4 * [{**BODY, "prompt": 600 * "x"}]})
        second = await api.post("batches", {"requests": 4 * [{**BODY, "prompt": 600 * "x"}]})
        api.stages.gate.set()
        await api.finish(first.json()["id"])
        third = await api.post("batches", {"requests": 4 * [{**BODY, "prompt": 600 * "x"}]})

    assert [each.status_code for each in (first, second, third)] == [202, 503, 202]
    assert second.json()["error"]["message"] == "the jobs that are queued take too many bytes"
    assert int(second.headers["retry-after"]) > 0


@pytest.mark.parametrize("key", [None, "k1"])
async def test_a_job_that_alone_has_too_many_bytes_is_refused_for_good(
    tmp_path: Path, model: LoadedModel, key: str | None
) -> None:
    config = app_config(tmp_path, model.source, jobs={"max_queued_bytes": 1000})
    headers = {} if key is None else {"idempotency_key": key}
    async with run_api(config, model) as api:
        answer = await api.post("jobs", {**BODY, "prompt": 900 * "x"}, **headers)
        again = await api.post("jobs", {**BODY, "prompt": "x"}, **headers)

    assert answer.status_code == 413
    assert "at most 1000 bytes" in answer.json()["error"]["message"]
    assert again.status_code == 202


async def test_a_key_leaves_room_in_the_queue_for_others(
    tmp_path: Path, model: LoadedModel, keys: dict[str, str]
) -> None:
    config = app_config(
        tmp_path,
        model.source,
        jobs={"max_queued": 4, "max_running_jobs": 1},
        keys={"file": str(tmp_path / "keys.yaml")},
    )
    async with run_api(config, model, key=keys["alice"]) as api:
        api.stages.gate.clear()
        await api.wait_for((await api.post("jobs", BODY)).json()["id"], "running")
        answers = [await api.post("jobs", BODY) for _ in range(3)]
        bobs = await api.post("jobs", BODY, **bearer(keys["bob"]))

    assert [each.status_code for each in answers] == [202, 202, 429]
    error = answers[2].json()["error"]
    assert error["type"] == "rate_limit_error"
    assert error["message"] == "a key may have 2 interactive jobs queued at once"
    assert int(answers[2].headers["retry-after"]) > 0
    assert bobs.status_code == 202


async def test_where_there_are_no_keys_the_whole_queue_is_everybodys(
    tmp_path: Path, model: LoadedModel
) -> None:
    jobs = {"max_queued": 2, "max_running_jobs": 1}
    async with run_api(app_config(tmp_path, model.source, jobs=jobs), model) as api:
        api.stages.gate.clear()
        await api.wait_for((await api.post("jobs", BODY)).json()["id"], "running")
        answers = [await api.post("jobs", BODY) for _ in range(3)]

    assert [each.status_code for each in answers] == [202, 202, 503]
