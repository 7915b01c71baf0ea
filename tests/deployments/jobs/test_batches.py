"""Many requests in one job."""

import asyncio
from pathlib import Path

import pytest
from jobs_app import LoadedModel, RunningApi, app_config, run_api, wait_until

REQUEST = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 1}


async def test_a_batch_has_a_result_or_an_error_for_each(api: RunningApi) -> None:
    requests = [
        {**REQUEST, "seed": 1},
        {**REQUEST, "prompt": "x" * 600},
        {**REQUEST, "seed": 3, "n": 2},
    ]
    answer = await api.post("batches", {"requests": requests})
    job = await api.finish(answer.json()["id"])

    assert answer.status_code == 202
    assert (job["object"], job["status"], job["num_requests"]) == ("image.batch", "succeeded", 3)
    items = job["result"]["data"]
    assert [item["index"] for item in items] == [0, 1, 2]
    assert [item["status"] for item in items] == ["succeeded", "failed", "succeeded"]
    assert items[1]["error"]["param"] == "prompt"
    assert [image["seed"] for image in items[2]["result"]["data"]] == [3, 4]
    assert (await api.client.get(items[0]["result"]["data"][0]["url"])).status_code == 200


async def test_a_batch_tells_of_each_request(api: RunningApi) -> None:
    answer = await api.post("batches", {"requests": 3 * [REQUEST]})
    events = await api.client.get(f"/v1/images/jobs/{answer.json()['id']}/events")

    assert events.text.count("event: job.item\n") == 3
    assert events.text.count("event: job.succeeded\n") == 1


async def test_a_running_batch_is_cancelled_and_keeps_what_is_done(api: RunningApi) -> None:
    api.stages.gate.clear()
    id = (await api.post("batches", {"requests": 9 * [REQUEST]})).json()["id"]
    await api.wait_for(id, "running")
    await api.client.delete(f"/v1/images/jobs/{id}")
    job = await api.finish(id)

    assert job["status"] == "cancelled"
    assert job["result"]["data"] == []


async def test_a_request_of_a_batch_has_as_long_as_the_batch(
    tmp_path: Path, model: LoadedModel
) -> None:
    default_s = 0.3
    config = app_config(tmp_path, model.source, router={"default_timeout_s": default_s})
    async with run_api(config, model) as api:
        api.stages.gate.clear()
        requests = [REQUEST, {**REQUEST, "timeout_s": default_s}]
        id = (await api.post("batches", {"requests": requests})).json()["id"]
        await wait_until(lambda: api.stages.drawn().total() == 2)
        await asyncio.sleep(2 * default_s)
        api.stages.gate.set()
        job = await api.finish(id)

    assert [item["status"] for item in job["result"]["data"]] == ["succeeded", "failed"]


@pytest.mark.parametrize(
    ("body", "param", "rule"),
    [
        ({"requests": []}, "requests", "must have at least 1 item, got a list of 0 items"),
        ({"requests": "a red circle"}, "requests", "a valid list, got a string of 12 characters"),
        (
            {"requests": [REQUEST, "a red circle"]},
            "requests.1",
            "requests.1: must be an object, got a string of 12 characters",
        ),
        ({"requests": 6 * [REQUEST]}, "requests", "at most 5 items, got 6"),
        (
            {"requests": [REQUEST, {**REQUEST, "response_format": "b64_json"}]},
            "requests.1.response_format",
            "must be 'url' in a batch",
        ),
        ({"requests": [REQUEST, {**REQUEST, "size": "65x64"}]}, "requests.1.size", "divide by 16"),
        (
            {"requests": [REQUEST, {**REQUEST, "output_compression": 5}]},
            "requests.1.output_compression",
            "requests.1: output_compression",
        ),
        (
            {"requests": [REQUEST, {**REQUEST, "priority": "interactive"}]},
            "requests.1.priority",
            "must be 'batch' in a batch",
        ),
        ({"requests": [REQUEST, {**REQUEST, "size": "6\u0664x64"}]}, "requests.1.size", "auto"),
        (
            {"requests": [{**REQUEST, "sead": 5}]},
            "requests.0.sead",
            "requests.0.sead must be a known field, did you mean requests.0.seed?",
        ),
        ({"requests": [{**REQUEST, "style": "x"}]}, "requests.0.style", "since the prompt sets"),
        ({"requests": [{**REQUEST, "prompt": 5}]}, "requests.0.prompt", "valid string"),
        ({"requests": [{**REQUEST, "prompt": 99 * "secret "}]}, "requests.0.prompt", "99 bytes"),
    ],
)
async def test_a_batch_with_a_mistake_is_refused_whole(
    tmp_path: Path, model: LoadedModel, body: dict[str, object], param: str, rule: str
) -> None:
    config = app_config(
        tmp_path,
        model.source,
        jobs={"max_batch_requests": 5},
        limits={"max_prompt_bytes": 99},
    )
    async with run_api(config, model) as api:
        answer = await api.post("batches", body)
        listed = (await api.client.get("/v1/images/jobs")).json()

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert rule in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert listed["data"] == []


async def test_a_rule_of_two_fields_is_told_with_its_request(api: RunningApi) -> None:
    most = 2**63 - 1
    answer = await api.post("batches", {"requests": [{**REQUEST, "seed": most, "n": 2}]})

    error = answer.json()["error"]
    assert error["param"] == "requests.0.seed"
    assert error["message"] == (
        f"requests.0.seed + n - 1 must be at most {most}, got seed {most} and n 2"
    )


async def test_a_field_of_a_request_is_no_hint_for_a_batch(api: RunningApi) -> None:
    answer = await api.post("batches", {"requests": [REQUEST], "n": 2})

    assert answer.json()["error"]["message"] == "n must be a known field"


async def test_a_model_that_a_batch_may_not_have_is_named_with_its_request(
    tmp_path: Path, model: LoadedModel
) -> None:
    async with run_api(app_config(tmp_path, model.source), model) as api:
        answer = await api.post("batches", {"requests": [REQUEST, {**REQUEST, "model": "other"}]})

    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "requests.1.model"


async def test_a_batch_has_a_body_limit_of_its_own(tmp_path: Path, model: LoadedModel) -> None:
    config = app_config(
        tmp_path,
        model.source,
        jobs={"max_batch_body_bytes": 3000},
        limits={"max_body_bytes": 300},
    )
    async with run_api(config, model) as api:
        fitting = await api.post("batches", {"requests": 5 * [REQUEST]})
        too_large = await api.post("batches", {"requests": 50 * [REQUEST]})
        job = await api.post("jobs", {**REQUEST, "prompt": 300 * "x"})

    assert [each.status_code for each in (fitting, too_large, job)] == [202, 413, 413]
