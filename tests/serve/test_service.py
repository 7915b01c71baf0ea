"""One service on Ray Serve, used as callers use it."""

import base64
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from PIL import Image
from ray_processes import TITLES, find_processes
from service import Service, run_service

from pipeline.image_file import read_provenance
from pipeline.request import ImageSize

pytestmark = pytest.mark.serve


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with run_service(
        folder, "--model", str(tiny_model), "--store", str(folder / "images")
    ) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_the_sdk_gets_a_url_that_downloads_the_picture(client: OpenAI) -> None:
    answer = client.images.generate(prompt="a red circle", size="96x64", extra_body={"seed": 5})

    assert answer.data is not None
    url = answer.data[0].url
    assert url is not None
    content = httpx.get(url).raise_for_status().content
    provenance = read_provenance(content)
    assert provenance.seed == 5
    assert provenance.size == ImageSize(height=64, width=96)


def test_the_sdk_gets_four_different_pictures_in_base64(client: OpenAI) -> None:
    answer = client.images.generate(
        prompt="蓝色背景上的红色圆形", n=4, size="64x64", response_format="b64_json"
    )

    assert answer.data is not None
    files = {base64.b64decode(item.b64_json or "") for item in answer.data}
    assert len(files) == 4
    assert {Image.open(BytesIO(file)).size for file in files} == {(64, 64)}


def test_the_sdk_sees_the_model(client: OpenAI, tiny_model: Path) -> None:
    assert [model.id for model in client.models.list()] == [str(tiny_model)]


def test_the_sdk_raises_the_rule_that_was_broken(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="width must divide by 16, got 1000"):
        client.images.generate(prompt="x", size="1000x512")


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="model must be"):
        client.images.generate(prompt="x", model="dall-e-3")


def test_a_prompt_of_too_many_tokens_is_refused(service: Service) -> None:
    body = {"prompt": "x" * 600, "size": "64x64"}

    answer = httpx.post(f"{service.url}/v1/images/generations", json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"
    assert "at most 512 tokens" in answer.json()["error"]["message"]


def test_the_same_seed_gives_the_same_bytes(service: Service) -> None:
    body = {"prompt": "x", "size": "64x64", "seed": 9, "response_format": "b64_json"}
    url = f"{service.url}/v1/images/generations"
    headers = {"x-request-id": "same"}

    first, second = (httpx.post(url, json=body, headers=headers).json() for _ in range(2))

    assert first["fingerprint"] == second["fingerprint"]
    assert first["data"][0]["b64_json"] == second["data"][0]["b64_json"]


def test_a_given_request_id_is_echoed_once(service: Service) -> None:
    answer = httpx.get(f"{service.url}/v1/models", headers={"x-request-id": "mine-1"})

    assert answer.headers.get_list("x-request-id") == ["mine-1"]


def test_a_request_id_that_breaks_the_rule_is_not_repeated(service: Service) -> None:
    answer = httpx.get(f"{service.url}/v1/models", headers={"x-request-id": "x" * 300})

    assert answer.status_code == 400
    [request_id] = answer.headers.get_list("x-request-id")
    assert "xxx" not in request_id


def test_a_deadline_that_cannot_be_kept_is_answered_as_such(service: Service) -> None:
    body = {"prompt": "x", "size": "512x512", "num_inference_steps": 50, "timeout_s": 0.05}

    answer = httpx.post(f"{service.url}/v1/images/generations", json=body)

    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"


def test_a_url_with_another_signature_is_refused(service: Service) -> None:
    body = {"prompt": "x", "size": "64x64"}
    url = httpx.post(f"{service.url}/v1/images/generations", json=body).json()["data"][0]["url"]

    assert httpx.get(url.replace("signature=", "signature=0")).status_code == 403


def test_a_header_that_overrides_serve_is_refused(service: Service) -> None:
    answer = httpx.get(f"{service.url}/v1/models", headers={"x-request-disconnect-disabled": "?1"})

    assert answer.status_code == 400


def test_an_answer_longer_than_rays_own_messages_comes_whole(client: OpenAI) -> None:
    answer = client.images.generate(
        prompt="a red circle",
        n=2,
        size="1024x1024",
        response_format="b64_json",
        extra_body={"num_inference_steps": 1, "seed": 1},
    )

    assert answer.data is not None
    files = [item.b64_json or "" for item in answer.data]
    assert sum(map(len, files)) > 4 * 2**20
    assert [Image.open(BytesIO(base64.b64decode(file))).size for file in files] == [
        (1024, 1024)
    ] * 2


def test_stages_compute_on_the_cpu_behind_whatever_answers_callers(service: Service) -> None:
    last = {kind: max(nicenesses(service, kind)) for kind in TITLES}

    stages = {"text encoder", "denoiser", "VAE decoder"}
    assert {kind for kind, niceness in last.items() if niceness == 19} == stages


def nicenesses(service: Service, kind: str) -> set[int]:
    """Return those of the threads of a process."""
    [process] = find_processes(service, kind)
    return {os.getpriority(os.PRIO_PROCESS, thread.id) for thread in process.threads()}
