"""Steady load on a mixed cluster while one process after another is killed: nothing is lost."""

import base64
import concurrent.futures
import itertools
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image
from service import Service, run_service

pytestmark = [pytest.mark.serve, pytest.mark.slow]

NUM_REQUESTS = 300
IN_FLIGHT = 4
FIRST_KILL, KILL_EVERY = 20, 30
VICTIMS = (
    "ray::ServeReplica:zimage:DenoiserDeployment-h800",
    "ray::ServeReplica:zimage:DenoiserDeployment-consumer-16gb",
    "ray::ServeReplica:zimage:TextEncoderDeployment",
    "ray::ServeReplica:zimage:VaeDecoderDeployment",
    "ray::ServeReplica:zimage:TileCoordinatorDeployment-consumer-16gb",
    "ray::Ledger",
    "node consumer-2",
    "ray::ServeReplica:zimage:RouterDeployment",
    "ray::ProxyActor",
)
SHAPES = (("128x128", "auto"), ("512x256", "full_image"), ("512x256", "tiled"))
GIVES_UP_AFTER_S = 240.0


@dataclass
class Call:
    """One request of a client that tries again until it has an answer."""

    size: str
    path: str
    seed: int
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    took_s: float = 0.0
    pixels: bytes = b""
    num_tries: int = 0

    def run(self, url: str) -> "Call":
        """Try until there is a picture."""
        started = time.monotonic()
        while (answer := self._try(url)) is None:
            assert time.monotonic() - started < GIVES_UP_AFTER_S, self
            time.sleep(0.5)
        self.took_s = time.monotonic() - started
        content = base64.b64decode(answer["data"][0]["b64_json"])
        self.pixels = Image.open(BytesIO(content)).tobytes()
        return self

    def _try(self, url: str) -> dict[str, Any] | None:
        """Return the answer; None where the connection broke, or the proxy lost its router."""
        self.num_tries += 1
        body = {
            "prompt": "a red circle",
            "size": self.size,
            "path": self.path,
            "seed": self.seed,
            "response_format": "b64_json",
        }
        try:
            answer = httpx.post(
                f"{url}/v1/images/generations",
                json=body,
                headers={"Idempotency-Key": self.key},
                timeout=GIVES_UP_AFTER_S,
            )
        except httpx.TransportError:
            return None
        is_own = answer.headers.get("content-type", "").startswith("application/json")
        if answer.status_code == 503 or (answer.status_code >= 500 and not is_own):
            return None
        content: dict[str, Any] = answer.raise_for_status().json()
        return content


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("faults")
    options = ("--mixed", "--model", str(tiny_model), "--store", str(folder / "images"))
    with run_service(folder, *options) as service:
        yield service


def _kill(service: Service, victim: str) -> None:
    family = psutil.Process(service.process.pid).children(recursive=True)
    wanted = f"/{victim.removeprefix('node ')}" if victim.startswith("node ") else victim
    root = next(each for each in family if wanted in " ".join(each.cmdline()))
    for process in (root, *root.children(recursive=True)):
        process.kill()


def test_no_kill_loses_or_spoils_or_repeats_a_picture(service: Service) -> None:
    calls = [
        Call(size, path, seed % 7)
        for seed, (size, path) in zip(range(NUM_REQUESTS), itertools.cycle(SHAPES), strict=False)
    ]
    expected = {
        (call.size, call.path, call.seed): Call(call.size, call.path, call.seed)
        .run(service.url)
        .pixels
        for call in calls[: 7 * len(SHAPES)]
        if call.path != "auto"
    }
    stored_before = _num_stored(service)
    kill_at = {FIRST_KILL + KILL_EVERY * index: victim for index, victim in enumerate(VICTIMS)}
    counter = itertools.count()

    def draw(call: Call) -> Call:
        victim = kill_at.get(next(counter))
        if victim is not None:
            _kill(service, victim)
        return call.run(service.url)

    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as threads:
        done = list(threads.map(draw, calls))

    assert {call.pixels for call in done if call.path == "auto"} != {b""}
    spoiled = [
        call
        for call in done
        if call.path != "auto" and call.pixels != expected[call.size, call.path, call.seed]
    ]
    assert not spoiled
    # Only a router's death may cost pictures that were stored and not yet answered for.
    assert NUM_REQUESTS <= _num_stored(service) - stored_before <= NUM_REQUESTS + 2 * IN_FLIGHT


def _num_stored(service: Service) -> int:
    return len(list((service.log.parent / "images").rglob("*.png")))
