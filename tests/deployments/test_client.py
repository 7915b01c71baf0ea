"""The command's client, against a real server."""

from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from fakes import SteppedStages
from fastapi import FastAPI
from local_service import build_api_over, local_config, serve_locally
from PIL import Image
from starlette.responses import JSONResponse, Response, StreamingResponse

from deployments.cli import main
from deployments.client import ClientError, ImagesClient
from deployments.http_api import GENERATIONS

BODY = {"prompt": "a red circle", "size": "64x64", "seed": 5}


@pytest.fixture(scope="module")
def url(local_app: FastAPI) -> Iterator[str]:
    with serve_locally(local_app) as url:
        yield url


def _ignore(step: int, num_steps: int) -> None:
    pass


def test_the_client_follows_every_step_to_a_picture(tiny_model: Path, tmp_path: Path) -> None:
    stages = SteppedStages()
    stages.allow(1 + 1)
    steps: list[tuple[int, int]] = []

    def on_step(step: int, num_steps: int) -> None:
        steps.append((step, num_steps))
        stages.allow(1)

    with serve_locally(build_api_over(local_config(tiny_model, tmp_path), stages)) as url:
        content = ImagesClient(url).draw({**BODY, "num_inference_steps": 3}, on_step)

    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert Image.open(BytesIO(content)).size == (64, 64)


@pytest.mark.parametrize("ending", ["/", "/v1", "/v1/"])
def test_a_base_url_as_openais_sdk_has_it_is_the_service(url: str, ending: str) -> None:
    content = ImagesClient(url + ending).draw({**BODY, "num_inference_steps": 1}, _ignore)

    assert Image.open(BytesIO(content)).size == (64, 64)


def _refusing(times: int, answer: Callable[[], Response]) -> tuple[FastAPI, list[int]]:
    """An application that gives an answer so many times, and then a picture."""
    app = FastAPI()
    calls: list[int] = []

    async def picture() -> AsyncIterator[bytes]:
        yield b'data: {"type":"image_generation.completed","b64_json":"cGl4ZWxz"}\n\n'

    @app.post(GENERATIONS)
    async def generate() -> Response:
        calls.append(len(calls))
        refusal = answer() if len(calls) <= times else None
        return refusal or StreamingResponse(picture())

    return app, calls


def _full(status: int, retry_after: str) -> Response:
    error = {"error": {"message": "the service is full"}}
    return JSONResponse(error, status, {"retry-after": retry_after})


@pytest.mark.parametrize("status", [429, 503])
def test_the_client_comes_back_when_the_server_says(status: int) -> None:
    app, calls = _refusing(2, lambda: _full(status, "7"))
    waits: list[float] = []

    with serve_locally(app) as url:
        content = ImagesClient(url, sleep=waits.append).draw(BODY, _ignore)

    assert content == b"pixels"
    assert waits == [7, 7]
    assert len(calls) == 3


def test_the_client_waits_no_longer_than_its_bound() -> None:
    app, calls = _refusing(100, lambda: _full(503, "50"))
    waits: list[float] = []

    with serve_locally(app) as url, pytest.raises(ClientError, match="the service is full"):
        ImagesClient(url, max_wait_s=120, sleep=waits.append).draw(BODY, _ignore)

    assert waits == [50, 50]
    assert len(calls) == 3


def test_an_error_event_that_says_when_is_tried_again() -> None:
    def lost() -> Response:
        event = b'data: {"error":{"message":"lost"},"status":503,"retry_after_s":5}\n\n'
        return Response(event, media_type="text/event-stream")

    app, _ = _refusing(1, lost)
    waits: list[float] = []

    with serve_locally(app) as url:
        content = ImagesClient(url, sleep=waits.append).draw(BODY, _ignore)

    assert content == b"pixels"
    assert waits == [5]


def test_a_refusal_is_not_tried_again(url: str) -> None:
    waits: list[float] = []

    with pytest.raises(ClientError, match="width must divide by 16, got 72"):
        ImagesClient(url, sleep=waits.append).draw({**BODY, "size": "72x64"}, _ignore)

    assert waits == []


def test_a_service_that_is_not_there_is_said_so() -> None:
    with pytest.raises(ClientError, match=r"a service must answer at http://127\.0\.0\.1:1"):
        ImagesClient("http://127.0.0.1:1").draw(BODY, _ignore)


def test_the_command_writes_the_picture_of_a_running_service(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.webp"

    exit_code = main(["generate", "a red circle", "-o", str(file), "--size", "96x64", "--url", url])

    assert exit_code == 0
    assert Image.open(BytesIO(file.read_bytes())).size == (96, 64)


def test_the_command_says_why_it_was_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.png"

    exit_code = main(["generate", "x", "-o", str(file), "--size", "100x64", "--url", url])

    assert exit_code == 1
    assert "width must divide by 16, got 100" in capsys.readouterr().err
    assert not file.exists()
