"""Jobs as a caller uses them: accept, follow, read, cancel, list."""

from io import BytesIO
from pathlib import Path

import pytest
from jobs_app import RunningApi, bearer, wait_until
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from PIL import Image

from cluster.spans import from_carrier, read_trace_id
from deployments.errors import InternalError, OverloadedError, ReplicaLostError
from deployments.stages import Encoded

BODY = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 2}
UNKNOWN = f"job-{24 * '0'}"


async def accept(api: RunningApi, **changes: object) -> str:
    answer = await api.post("jobs", {**BODY, **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def test_a_job_is_accepted_before_anything_is_drawn(api: RunningApi) -> None:
    api.stages.gate.clear()
    answer = await api.post("jobs", BODY)

    job = answer.json()
    assert answer.status_code == 202
    assert job["status"] == "queued"
    assert job["queue_position"] == 0
    assert job["estimate_s"] > 0
    assert job["created"] > 1_700_000_000


async def test_the_queue_position_counts_those_ahead(api: RunningApi) -> None:
    api.stages.gate.clear()
    running = [await accept(api) for _ in range(2)]
    for id in running:
        await api.wait_for(id, "running")
    first, second = [(await api.post("jobs", BODY)).json() for _ in range(2)]

    assert (first["queue_position"], second["queue_position"]) == (0, 1)
    assert second["estimate_s"] >= first["estimate_s"]


async def test_a_job_has_the_answer_of_a_synchronous_call(api: RunningApi) -> None:
    body = {**BODY, "seed": 7, "n": 2}
    job = await api.finish(await accept(api, seed=7, n=2))
    direct = (await api.post("generations", body)).json()

    result = job["result"]
    assert job["status"] == "succeeded"
    assert [item["seed"] for item in result["data"]] == [7, 8]
    assert result.keys() == direct.keys()
    assert result["fingerprint"] == direct["fingerprint"]
    for mine, its in zip(result["data"], direct["data"], strict=True):
        assert await pixels(api, mine["url"]) == await pixels(api, its["url"])


async def pixels(api: RunningApi, url: str) -> bytes:
    content = (await api.client.get(url)).raise_for_status().content
    return Image.open(BytesIO(content)).tobytes()


async def test_a_job_gives_base64_if_it_was_asked_for(api: RunningApi) -> None:
    job = await api.finish(await accept(api, response_format="b64_json"))

    item = job["result"]["data"][0]
    assert "url" not in item
    assert item["b64_json"].startswith("iVBOR")


async def test_a_job_whose_picture_has_left_the_store_is_not_found(
    api: RunningApi, tmp_path: Path
) -> None:
    id = await accept(api, response_format="b64_json")
    job = await api.finish(id)
    (tmp_path / "images" / job["result"]["data"][0]["key"]).unlink()
    answer = await api.client.get(f"/v1/images/jobs/{id}")

    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "a picture is not in the store any more",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }


async def test_a_running_job_has_no_result_yet(api: RunningApi) -> None:
    api.stages.gate.clear()
    job = await api.wait_for(await accept(api), "running")

    assert "result" not in job
    assert job["started"] >= job["created"]


async def test_a_job_fails_with_the_rule_that_was_broken(api: RunningApi) -> None:
    job = await api.finish(await accept(api, prompt="x" * 600))

    assert job["status"] == "failed"
    assert job["error"]["param"] == "prompt"
    assert "at most 512 tokens" in job["error"]["message"]
    assert "result" not in job


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"size": "100x64"}, "size"),
        ({"colour": "red"}, "colour"),
        ({"webhook": {"url": "https://example.com"}}, "webhook.url"),
        ({"webhook": "https://example.com"}, "webhook"),
        ({"prompt": ""}, "prompt"),
    ],
)
async def test_what_a_synchronous_call_refuses_is_refused_at_once(
    api: RunningApi, changes: dict[str, object], param: str
) -> None:
    answer = await api.post("jobs", {**BODY, **changes})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"webhok": {}}, "webhok must be a known field, did you mean webhook?"),
        (
            {"webhook": {"url": "x", "ulr": ""}},
            "webhook.ulr must be a known field, did you mean webhook.url?",
        ),
    ],
)
async def test_an_unknown_field_of_a_job_is_hinted_at(
    api: RunningApi, changes: dict[str, object], hint: str
) -> None:
    answer = await api.post("jobs", {**BODY, **changes})

    assert answer.json()["error"]["message"] == hint


async def test_a_job_is_drawn_in_the_trace_of_its_call(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_ids = ["0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"]
    drawn_in: list[str | None] = []
    encode = api.stages.encode

    async def note_and_encode(prompt: str) -> Encoded:
        drawn_in.append(read_trace_id(trace.get_current_span()))
        return await encode(prompt)

    monkeypatch.setattr(api.stages, "encode", note_and_encode)
    for trace_id in trace_ids:
        called = from_carrier({"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
        token = otel_context.attach(called or Context())
        id = await accept(api)
        otel_context.detach(token)
        await api.finish(id)
    await api.finish(await accept(api))

    assert drawn_in[:2] == trace_ids
    assert drawn_in[2] not in trace_ids


async def test_a_full_service_is_waited_for(api: RunningApi) -> None:
    api.stages.failures = [OverloadedError("full", None, 0), OverloadedError("full", None, 0)]
    job = await api.finish(await accept(api))

    assert job["status"] == "succeeded"


async def test_a_lost_replica_is_tried_again(api: RunningApi) -> None:
    api.stages.failures = [ReplicaLostError("a replica was lost", None, 0)]
    job = await api.finish(await accept(api))

    assert job["status"] == "succeeded"


async def test_a_job_that_lost_two_replicas_comes_back_later(api: RunningApi) -> None:
    api.stages.failures = [ReplicaLostError("a replica was lost", None, 0) for _ in range(2)]
    job = await api.finish(await accept(api))

    assert job["status"] == "succeeded"


async def test_a_job_that_loses_every_replica_fails(api: RunningApi) -> None:
    api.stages.failures = [ReplicaLostError("a replica was lost", None, 0) for _ in range(9)]
    job = await api.finish(await accept(api))

    assert (job["status"], job["error"]["code"]) == ("failed", "poisoned_request")
    assert len(api.stages.failures) == 9 - 4


async def test_a_defect_fails_its_own_job_only(api: RunningApi) -> None:
    api.stages.failures = [InternalError("a defect")]
    broken = await api.finish(await accept(api))
    healthy = await api.finish(await accept(api))

    assert (broken["status"], broken["error"]["code"]) == ("failed", "internal_error")
    assert healthy["status"] == "succeeded"


async def test_a_job_that_cannot_be_finished_in_time_fails(api: RunningApi) -> None:
    api.stages.gate.clear()
    job = await api.finish(await accept(api, timeout_s=0.3))

    assert job["status"] == "failed"
    assert job["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    "id",
    [
        UNKNOWN,
        "job-1",
        "job-" + 24 * "G",
        "img-" + 24 * "0",
        "..",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%5c..%5cwindows",
        "job-%00",
        "'%20OR%201=1--",
        "*",
        "%F0%9F%92%A3",
        1000 * "a",
    ],
)
async def test_an_id_of_no_job_is_not_found(api: RunningApi, id: str) -> None:
    url = f"/v1/images/jobs/{id}"
    answers = [
        await api.client.get(url),
        await api.client.delete(url),
        await api.client.get(f"{url}/events"),
        await api.client.get("/v1/images/jobs", params={"after": id}),
    ]

    assert {answer.status_code for answer in answers} == {404}
    assert {answer.json()["error"]["code"] for answer in answers} == {"not_found"}


async def test_another_owners_job_is_not_found(keyed_api: RunningApi, keys: dict[str, str]) -> None:
    id = await accept(keyed_api)
    url = f"/v1/images/jobs/{id}"
    client, other = keyed_api.client, bearer(keys["bob"])

    assert (await client.get(url, headers=other)).status_code == 404
    assert (await client.delete(url, headers=other)).status_code == 404
    assert (await client.get(f"{url}/events", headers=other)).status_code == 404
    assert (await client.get("/v1/images/jobs", headers=other)).json()["data"] == []
    after = await client.get("/v1/images/jobs", headers=other, params={"after": id})
    assert after.status_code == 404
    assert (await client.get(url)).status_code == 200


async def test_a_queued_job_is_cancelled_and_never_drawn(api: RunningApi) -> None:
    api.stages.gate.clear()
    running = [await accept(api) for _ in range(2)]
    for id in running:
        await api.wait_for(id, "running")
    queued = await accept(api)
    answer = await api.client.delete(f"/v1/images/jobs/{queued}")
    api.stages.gate.set()
    for id in running:
        await api.finish(id)

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert (await api.finish(queued))["status"] == "cancelled"
    assert sum(api.stages.drawn().values()) == 2


async def test_a_running_job_lets_go_when_it_is_cancelled(api: RunningApi) -> None:
    api.stages.gate.clear()
    id = await accept(api)
    await api.wait_for(id, "running")
    await wait_until(lambda: api.stages.drawn())
    answer = await api.client.delete(f"/v1/images/jobs/{id}")

    assert answer.json()["status"] == "cancelled"
    await wait_until(lambda: api.stages.let_go)
    assert api.stages.let_go == set(api.stages.drawn())
    assert (await api.finish(id))["status"] == "cancelled"


async def test_a_cancelled_job_is_cancelled_again(api: RunningApi) -> None:
    api.stages.gate.clear()
    id = await accept(api)
    answers = [await api.client.delete(f"/v1/images/jobs/{id}") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize("prompt", ["a red circle", "x" * 600], ids=["succeeded", "failed"])
async def test_a_finished_job_is_not_cancelled(api: RunningApi, prompt: str) -> None:
    id = await accept(api, prompt=prompt)
    before = await api.finish(id)
    answer = await api.client.delete(f"/v1/images/jobs/{id}")

    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "job_finished"
    assert (await api.finish(id))["status"] == before["status"]


async def test_jobs_are_listed_by_page_the_latest_first(api: RunningApi) -> None:
    ids = [await accept(api) for _ in range(5)]
    for id in ids:
        await api.finish(id)
    first = (await api.client.get("/v1/images/jobs?limit=3")).json()
    second = (
        await api.client.get("/v1/images/jobs", params={"limit": 3, "after": first["last_id"]})
    ).json()

    listed = [job["id"] for job in (*first["data"], *second["data"])]
    assert listed == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert all("result" not in job for job in first["data"])


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "+2", "02", "2.0"])
async def test_a_page_has_bounds(api: RunningApi, limit: str) -> None:
    answer = await api.client.get("/v1/images/jobs", params={"limit": limit})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "limit"


async def test_the_prompt_is_in_no_answer_of_a_job(api: RunningApi) -> None:
    id = await accept(api, prompt="an unmistakable prompt")
    await api.finish(id)
    answers = [
        await api.client.get(f"/v1/images/jobs/{id}"),
        await api.client.get("/v1/images/jobs"),
        await api.client.get(f"/v1/images/jobs/{id}/events"),
    ]

    assert not [answer for answer in answers if "unmistakable" in answer.text]
