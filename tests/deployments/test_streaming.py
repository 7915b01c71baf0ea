"""A streamed call, over a real server and the official SDK where the reader matters."""

import asyncio
import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import SteppedStages
from fastapi import FastAPI
from local_service import build_api_over, local_config, serve_locally
from openai import APIError, OpenAI
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image
from starlette.types import Message, Scope

from deployments import streaming
from deployments.config import RouterConfig

GENERATIONS = "/v1/images/generations"
BODY = {"prompt": "a red circle", "size": "64x64", "stream": True, "num_inference_steps": 4}
WARM_UP = 1
"""Steps that the application takes when a server starts it."""


@pytest.fixture
def stages() -> SteppedStages:
    return SteppedStages()


def _build(stages: SteppedStages, model: Path, folder: Path, **router: float) -> FastAPI:
    config = local_config(model, folder, router=RouterConfig.model_validate(router))
    return build_api_over(config, stages)


@pytest.fixture
def app(stages: SteppedStages, tiny_model: Path, tmp_path: Path) -> FastAPI:
    return _build(stages, tiny_model, tmp_path)


class Reader:
    """An ASGI client that takes a message when the test says so."""

    def __init__(self, app: FastAPI, body: dict[str, Any]) -> None:
        self.messages: list[Message] = []
        self._content = json.dumps(body).encode()
        self._is_given = False
        self._taken = asyncio.Semaphore(0)
        self._gone = asyncio.Event()
        self._came = asyncio.Condition()
        self.call = asyncio.create_task(app(self._scope(), self._receive, self._send))

    def take(self, num_messages: int) -> None:
        for _ in range(num_messages):
            self._taken.release()

    def leave(self) -> None:
        self._gone.set()

    async def wait_for(self, text: bytes) -> None:
        async with self._came:
            await self._came.wait_for(lambda: text in self.body)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    def _scope(self) -> Scope:
        headers = [(b"content-type", b"application/json"), (b"host", b"test")]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": GENERATIONS,
            "raw_path": GENERATIONS.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
        }

    async def _receive(self) -> Message:
        if not self._is_given:
            self._is_given = True
            return {"type": "http.request", "body": self._content, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._taken.acquire()
        async with self._came:
            self.messages.append(message)
            self._came.notify_all()


def _parse(body: bytes) -> list[dict[str, Any]]:
    lines = body.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


@pytest.fixture
def sdk(app: FastAPI) -> Iterator[OpenAI]:
    with (
        serve_locally(app) as url,
        OpenAI(
            base_url=f"{url}/v1",
            api_key="unused",
            max_retries=0,
            _strict_response_validation=True,
        ) as client,
    ):
        yield client


def test_the_sdk_yields_partial_pictures_and_the_final_one(
    stages: SteppedStages, sdk: OpenAI
) -> None:
    stages.allow(WARM_UP + 4)

    stream = sdk.images.generate(
        prompt="a red circle",
        size="96x64",
        stream=True,
        partial_images=2,
        extra_body={"num_inference_steps": 4},
    )
    *partials, completed = list(stream)

    assert all(isinstance(event, ImageGenPartialImageEvent) for event in partials)
    assert [getattr(event, "partial_image_index", None) for event in partials] == [0, 1]
    assert isinstance(completed, ImageGenCompletedEvent)
    assert {
        Image.open(BytesIO(base64.b64decode(event.b64_json))).size
        for event in [*partials, completed]
    } == {(96, 64)}
    assert completed.usage.input_tokens_details.text_tokens == completed.usage.input_tokens


def test_the_final_picture_is_in_the_store(
    stages: SteppedStages, sdk: OpenAI, tmp_path: Path
) -> None:
    stages.allow(WARM_UP + 4)

    stream = sdk.images.generate(
        prompt="x", size="64x64", stream=True, extra_body={"num_inference_steps": 4}
    )
    (completed,) = list(stream)

    assert completed.model_extra is not None
    stored = (tmp_path / completed.model_extra["key"]).read_bytes()
    assert stored == base64.b64decode(completed.b64_json)


async def test_an_error_in_the_middle_is_raised_by_the_sdk(
    tiny_model: Path, tmp_path: Path
) -> None:
    stages = SteppedStages(fails_after=1)
    reader = Reader(_build(stages, tiny_model, tmp_path), {**BODY, "progress_events": True})
    stages.allow(1)
    reader.take(10)
    await reader.call

    progress, failure = _parse(reader.body)
    assert reader.status == 200
    assert progress["step"] == 1
    assert b"event: error\n" in reader.body
    assert failure["error"]["code"] == "internal_error"
    assert failure["status"] == 500


@pytest.mark.parametrize("name", ["PartialImageEvent", "CompletedEvent"])
async def test_an_event_that_cannot_be_framed_ends_the_stream_with_an_error(
    stages: SteppedStages, app: FastAPI, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(**_: Any) -> None:
        raise ValueError("cannot be framed")

    monkeypatch.setattr(streaming, name, fail)
    stages.allow(4)
    reader = Reader(app, {**BODY, "partial_images": 1})
    reader.take(10)
    await reader.call

    *_, failure = _parse(reader.body)
    assert failure["error"]["code"] == "internal_error"
    assert failure["status"] == 500


def test_the_sdk_raises_what_the_error_event_says(tiny_model: Path, tmp_path: Path) -> None:
    stages = SteppedStages(fails_after=1)
    stages.allow(WARM_UP + 1)
    with (
        serve_locally(_build(stages, tiny_model, tmp_path)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
        client.images.generate(prompt="x", size="64x64", stream=True) as stream,
        pytest.raises(APIError, match="the service failed; its log has request"),
    ):
        list(stream)


async def test_an_error_before_the_first_step_has_a_status_of_its_own(
    tiny_model: Path, tmp_path: Path
) -> None:
    reader = Reader(_build(SteppedStages(fails_after=0), tiny_model, tmp_path), BODY)
    reader.take(10)
    await reader.call

    assert reader.status == 500
    assert json.loads(reader.body)["error"]["code"] == "internal_error"


async def test_progress_comes_a_step_if_it_is_asked_for(
    stages: SteppedStages, app: FastAPI
) -> None:
    reader = Reader(app, {**BODY, "progress_events": True})
    reader.take(50)
    for step in range(1, 5):
        stages.allow(1)
        await reader.wait_for(b'"step":%d' % step)
    await reader.call

    events = _parse(reader.body)
    assert [event["type"].split(".")[1] for event in events] == ["progress"] * 4 + ["completed"]


async def test_silence_is_filled_with_comments(
    stages: SteppedStages, tiny_model: Path, tmp_path: Path
) -> None:
    reader = Reader(_build(stages, tiny_model, tmp_path, heartbeat_s=0.01), BODY)
    reader.take(10_000)
    await reader.wait_for(b": heartbeat\n\n: heartbeat\n\n")
    stages.allow(4)
    await reader.call

    assert [event["type"] for event in _parse(reader.body)] == ["image_generation.completed"]


async def test_a_reader_that_stalls_holds_no_step_back(stages: SteppedStages, app: FastAPI) -> None:
    reader = Reader(app, {**BODY, "num_inference_steps": 50, "partial_images": 3})
    stages.allow(50)
    await stages.is_closed.wait()
    assert stages.steps_taken == 50
    assert reader.messages == []

    reader.take(50)
    await reader.call

    events = _parse(reader.body)
    assert [event.get("partial_image_index") for event in events] == [1, 2, None]
    assert events[-1]["type"] == "image_generation.completed"


async def test_a_reader_that_takes_nothing_for_too_long_is_cut(
    stages: SteppedStages, tiny_model: Path, tmp_path: Path
) -> None:
    app = _build(stages, tiny_model, tmp_path, stall_timeout_s=0.05)
    reader = Reader(app, {**BODY, "progress_events": True})
    stages.allow(1)
    reader.take(1)

    await reader.call
    await stages.is_closed.wait()

    assert stages.steps_taken == 1


async def test_a_reader_that_leaves_stops_the_steps(stages: SteppedStages, app: FastAPI) -> None:
    reader = Reader(app, {**BODY, "num_inference_steps": 50, "progress_events": True})
    reader.take(50)
    stages.allow(2)
    await reader.wait_for(b'"step":2')

    reader.leave()
    await reader.call
    await stages.is_closed.wait()
    stages.allow(48)

    assert stages.steps_taken == 2


async def test_a_call_that_is_cancelled_before_its_first_step_takes_none(
    stages: SteppedStages, app: FastAPI
) -> None:
    reader = Reader(app, BODY)
    await stages.is_entered.wait()

    reader.call.cancel()
    await asyncio.gather(reader.call, return_exceptions=True)
    await stages.is_closed.wait()
    stages.allow(4)

    assert reader.call.cancelled()
    assert stages.steps_taken == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stream": True, "n": 2}, "n must be 1 with stream true, got 2"),
        ({"stream": True, "response_format": "url"}, "response_format must be b64_json"),
        ({"partial_images": 1}, "partial_images must come with stream true, got 1"),
        ({"progress_events": True}, "progress_events must come with stream true, got true"),
        ({"stream": True, "partial_images": 4}, "partial_images: must be less than or equal to 3"),
    ],
)
async def test_what_a_stream_cannot_carry_is_refused(
    app: FastAPI, fields: dict[str, Any], message: str
) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as client:
        answer = await client.post(GENERATIONS, json={"prompt": "x", "size": "64x64", **fields})

    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
