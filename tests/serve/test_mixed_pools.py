"""Two pools in one application: whole pictures here, tiles there, and replicas that die."""

import base64
import concurrent.futures
import itertools
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from PIL import Image
from service import Service, run_service

pytestmark = pytest.mark.serve

CONFIG = {
    "pools": [
        {"name": "whole", "profile": "h800", "accelerator": "CPU", "num_threads": 1},
        {
            "name": "tiles",
            "profile": "consumer-16gb",
            "accelerator": "CPU",
            "path": "tiled",
            "num_threads": 1,
            "min_replicas": 2,
            "max_replicas": 2,
            "tiling": {"tile_size": 16, "overlap": 4, "base_max_pixels": 16384},
        },
    ]
}


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("mixed")
    config = folder / "zimage.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    options = ("--config", str(config), "--model", str(tiny_model), "--store", str(folder / "i"))
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
    answer = _generate(service, path=path, size="256x192", seed=1)

    assert answer["path"] == path
    assert answer["fingerprint"].startswith(path)


def test_a_tiled_picture_has_the_same_bytes_again(service: Service) -> None:
    first, second = (
        _generate(service, path="tiled", size="256x192", seed=2)["data"][0] for _ in range(2)
    )

    assert _pixels(first) == _pixels(second)


def _pixels(item: dict[str, Any]) -> bytes:
    return Image.open(BytesIO(base64.b64decode(item["b64_json"]))).tobytes()


@pytest.mark.parametrize(
    ("deployment", "path"),
    [
        ("DenoiserDeployment-whole", "full_image"),
        ("DenoiserDeployment-tiles", "tiled"),
        ("VaeDecoderDeployment", "full_image"),
        ("TextEncoderDeployment", "full_image"),
    ],
)
def test_a_killed_replica_loses_no_picture(service: Service, deployment: str, path: str) -> None:
    expected = _pixels(_generate(service, path=path, size="192x192", seed=3)["data"][0])
    counter = itertools.count()

    def draw() -> bytes:
        if next(counter) == 4:
            _kill_replica(service, deployment)
        answer = _generate(service, path=path, size="192x192", seed=3, num_inference_steps=8)
        return _pixels(answer["data"][0])

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        pictures = list(threads.map(lambda _: draw(), range(12)))

    assert set(pictures) == {expected}
