"""A mixed cluster on this machine: whole pictures here, tiles there, and what dies is missed."""

import base64
import concurrent.futures
import itertools
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image
from service import Service, run_service

from deployments.commands.tour import STOPS

pytestmark = [pytest.mark.serve, pytest.mark.cluster]

TOUR_WITHIN_S = 120.0


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("mixed")
    options = ("--mixed", "--model", str(tiny_model), "--store", str(folder / "images"))
    with run_service(folder, *options) as service:
        yield service


def _generate(service: Service, **fields: Any) -> dict[str, Any]:
    body = {"prompt": "a red circle", "response_format": "b64_json", **fields}
    answer = httpx.post(f"{service.url}/v1/images/generations", json=body, timeout=120)
    content: dict[str, Any] = answer.raise_for_status().json()
    return content


def _kill_replica(service: Service, deployment: str) -> None:
    """Kill one replica of a deployment; Ray names processes after the actor they hold."""
    names = {
        process: " ".join(process.cmdline())
        for process in psutil.Process(service.process.pid).children(recursive=True)
    }
    victim = next(process for process, name in names.items() if f":{deployment}" in name)
    victim.kill()


@pytest.mark.parametrize("path", ["full_image", "tiled"])
def test_a_pinned_path_is_kept(service: Service, path: str) -> None:
    answer = _generate(service, path=path, size="512x256", seed=1)

    assert answer["path"] == path
    assert answer["fingerprint"].startswith(path)


def test_the_tour_says_where_each_picture_went_and_why(service: Service) -> None:
    deadline = time.monotonic() + TOUR_WITHIN_S
    while len(rows := _tour_of(service)) < len(STOPS):
        assert time.monotonic() < deadline, service.log.read_text()
        time.sleep(0.2)

    asked = [stop.path for stop in STOPS]
    pools = [row.split()[3] for row in rows]
    assert set(pools) == {"h800", "consumer-16gb"}
    assert pools[asked.index("full_image")] == "h800"
    assert pools[asked.index("tiled")] == "consumer-16gb"


def _tour_of(service: Service) -> list[str]:
    sizes = {stop.size for stop in STOPS}
    lines = service.log.read_text().splitlines()
    return [line for line in lines if line.split()[:1] and line.split()[0] in sizes]


def test_a_tiled_picture_has_the_same_bytes_again(service: Service) -> None:
    first, second = (
        _generate(service, path="tiled", size="512x256", seed=2)["data"][0] for _ in range(2)
    )

    assert _pixels(first) == _pixels(second)


def _pixels(item: dict[str, Any]) -> bytes:
    return Image.open(BytesIO(base64.b64decode(item["b64_json"]))).tobytes()


@pytest.mark.parametrize(
    ("deployment", "path"),
    [
        ("DenoiserDeployment-h800", "full_image"),
        ("DenoiserDeployment-consumer-16gb", "tiled"),
        ("VaeDecoderDeployment", "full_image"),
        ("TextEncoderDeployment", "full_image"),
    ],
)
def test_a_killed_replica_loses_no_picture(service: Service, deployment: str, path: str) -> None:
    expected = _pixels(_generate(service, path=path, size="512x256", seed=3)["data"][0])
    counter = itertools.count()

    def draw() -> bytes:
        if next(counter) == 4:
            _kill_replica(service, deployment)
        answer = _generate(service, path=path, size="512x256", seed=3, num_inference_steps=8)
        return _pixels(answer["data"][0])

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        pictures = list(threads.map(lambda _: draw(), range(12)))

    assert set(pictures) == {expected}


def test_a_killed_node_loses_no_picture(service: Service) -> None:
    expected = _pixels(_generate(service, path="tiled", size="512x256", seed=4)["data"][0])
    counter = itertools.count()

    def draw() -> bytes:
        if next(counter) == 4:
            _kill_node(service, "consumer-2")
        return _pixels(_generate(service, path="tiled", size="512x256", seed=4)["data"][0])

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        pictures = list(threads.map(lambda _: draw(), range(10)))

    assert set(pictures) == {expected}


def _kill_node(service: Service, name: str) -> None:
    """Kill all processes of one worker node at once, as a machine that is gone does."""
    family = psutil.Process(service.process.pid).children(recursive=True)
    root = next(each for each in family if f"/{name}" in " ".join(each.cmdline()))
    for process in (root, *root.children(recursive=True)):
        process.kill()
