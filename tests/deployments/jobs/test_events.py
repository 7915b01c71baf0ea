"""A job's events, from the first or from wherever a reader left off."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from caller_api import write_keys
from jobs_app import WITHIN_S, LoadedModel, RunningApi, app_config, run_api
from starlette.types import Message

from deployments.jobs import event_stream

BODY = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 3}


async def read_events(api: RunningApi, id: str, last: str | None = None) -> list[dict[str, Any]]:
    headers = {} if last is None else {"last-event-id": last}
    answer = await api.client.get(f"/v1/images/jobs/{id}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in answer.text.split("\n\n") if block.startswith("id:")]
    fields = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [{**each, "data": json.loads(each["data"])} for each in fields]


async def accept(api: RunningApi, **changes: object) -> str:
    return str((await api.post("jobs", {**BODY, **changes})).json()["id"])


async def test_a_reader_follows_a_job_to_its_end(api: RunningApi) -> None:
    id = await accept(api)
    events = await read_events(api, id)

    assert [event["event"] for event in events] == [
        "job.running",
        *(3 * ["job.step"]),
        "job.succeeded",
    ]
    assert [event["id"] for event in events] == ["1", "2", "3", "4", "5"]
    assert [event["data"].get("step") for event in events] == [None, 1, 2, 3, None]
    assert events[-1]["data"]["status"] == "succeeded"
    assert events[-1]["data"]["id"] == id


async def test_every_reader_sees_the_same(api: RunningApi) -> None:
    id = await accept(api)
    await api.finish(id)

    assert await read_events(api, id) == await read_events(api, id)


async def test_a_reader_resumes_after_its_last_event(api: RunningApi) -> None:
    id = await accept(api)
    every = await read_events(api, id)

    assert await read_events(api, id, "3") == every[3:]
    assert await read_events(api, id, "0") == every


async def test_a_reader_that_has_the_end_gets_nothing_more(api: RunningApi) -> None:
    id = await accept(api)
    last = (await read_events(api, id))[-1]["id"]
    answer = await api.client.get(f"/v1/images/jobs/{id}/events", headers={"last-event-id": last})

    assert answer.status_code == 204


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "0x10", 40 * "9"])
async def test_an_id_of_no_event_is_refused(api: RunningApi, last: str) -> None:
    id = await accept(api)
    answer = await api.client.get(f"/v1/images/jobs/{id}/events", headers={"last-event-id": last})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "last-event-id"


async def test_a_cancelled_job_ends_its_events(api: RunningApi) -> None:
    api.stages.gate.clear()
    id = await accept(api)
    await api.wait_for(id, "running")
    await api.client.delete(f"/v1/images/jobs/{id}")

    assert (await read_events(api, id))[-1]["event"] == "job.cancelled"


async def test_a_long_stream_ends_and_its_reader_resumes(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.stages.gate.clear()
    id = await accept(api)
    await api.wait_for(id, "running")
    with monkeypatch.context() as patch:
        patch.setattr(event_stream, "MAX_STREAM_S", 0.5)
        begun = await read_events(api, id)
    api.stages.gate.set()
    ended = await read_events(api, id, begun[-1]["id"])

    assert [event["event"] for event in begun] == ["job.running"]
    assert [event["event"] for event in ended] == [*(3 * ["job.step"]), "job.succeeded"]


async def test_readers_leave_room_for_others(tmp_path: Path, model: LoadedModel) -> None:
    keys = write_keys(tmp_path / "keys.yaml", alice={}, bob={})
    config = app_config(
        tmp_path,
        model.source,
        jobs={"max_event_readers": 3},
        keys={"file": str(tmp_path / "keys.yaml")},
    )
    bob = {"authorization": f"Bearer {keys['bob']}"}
    async with run_api(config, model, key=keys["alice"]) as api, asyncio.TaskGroup() as group:
        api.stages.gate.clear()
        alices = await accept(api)
        bobs = (await api.client.post("/v1/images/jobs", json=BODY, headers=bob)).json()["id"]
        followed = group.create_task(read_events(api, alices))
        await asyncio.sleep(0.1)
        second = await api.client.get(f"/v1/images/jobs/{alices}/events")
        other = group.create_task(api.client.get(f"/v1/images/jobs/{bobs}/events", headers=bob))
        await asyncio.sleep(0.1)
        api.stages.gate.set()
        await followed
        again = await read_events(api, alices)

    assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert other.result().status_code == 200
    assert again[-1]["event"] == "job.succeeded"


async def test_a_reader_that_takes_nothing_loses_its_stream(
    tmp_path: Path, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    config = app_config(tmp_path, model.source, router={"stall_timeout_s": 0.2})
    async with run_api(config, model) as api:
        api.stages.gate.clear()
        id = await accept(api)
        never, asked = asyncio.Event(), [{"type": "http.request", "body": b""}]

        async def receive() -> Message:
            if not asked:
                await never.wait()
            return asked.pop()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                await never.wait()

        path = f"/v1/images/jobs/{id}/events"
        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
        async with asyncio.timeout(WITHIN_S):
            await api.app(scope, receive, send)

    assert "a stream was cut: nothing taken for 0.2 s" in caplog.messages
