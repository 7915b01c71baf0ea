"""Calls that were drawn before, over HTTP."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from caller_api import SMALL, LoadedModel, build_app, open_client, write_keys
from fastapi import FastAPI
from metric_reader import read_points
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from redis_server import RedisServer

from cluster.errors import StoreUnavailableError
from cluster.metrics import OtelMeter, use_meters
from cluster.rates import ReplicaRate, SmoothedRate
from cluster.storage import FolderImageStore, StoredImage
from deployments.backlog import AgedReport, ReplicaReport
from deployments.ledger import LedgerView
from deployments.pool_choice import LedgerPoolChooser
from deployments.routing.paths import RoutingPolicy

SEEDED = {**SMALL, "seed": 7, "response_format": "b64_json"}

BuildApp = Callable[..., FastAPI]


@pytest.fixture(params=["router", "redis"])
def build(
    request: pytest.FixtureRequest,
    loaded: LoadedModel,
    tmp_path: Path,
    cache_server: RedisServer,
) -> BuildApp:
    redis_url = {"redis": cache_server.url, "router": None}[request.param]

    def build_with(**options: Any) -> FastAPI:
        live = frozenset({loaded.fingerprint})
        cache = {"results": True, "redis_url": redis_url}
        return build_app(
            loaded, tmp_path, **{"fingerprints": lambda: live, "cache": cache, **options}
        )

    return build_with


async def ask(app: FastAPI, key: str | None = None, **fields: Any) -> httpx.Response:
    async with open_client(app, key) as client:
        answer = await client.post("/v1/images/generations", json={**SEEDED, **fields})
        return answer.raise_for_status()


async def ask_twice(app: FastAPI, **second: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ask for a picture that only the test has asked for, then again, perhaps otherwise."""
    prompt = f"of {id(app)}"
    first = await ask(app, prompt=prompt)
    return first.json(), (await ask(app, **{"prompt": prompt, **second})).json()


def keys_of(answer: dict[str, Any]) -> list[str]:
    return [item["key"] for item in answer["data"]]


async def test_look_ups_are_counted_in_the_metrics(build: BuildApp) -> None:
    reader = InMemoryMetricReader()
    use_meters([OtelMeter(MeterProvider([reader]))])
    await ask_twice(build())
    use_meters([])

    points = read_points(reader)["zimage.cache.lookups"]

    of_results = [point for point in points if point.attributes["cache"] == "result"]
    assert {point.attributes["result"]: point.value for point in of_results} == {
        "hit": 1,
        "miss": 1,
    }


async def test_the_same_call_gets_the_same_picture_without_drawing(build: BuildApp) -> None:
    first, second = await ask_twice(build())

    assert second["data"] == first["data"]
    assert second["timings"]["denoise_ms"] == 0.0 < first["timings"]["denoise_ms"]
    assert second["fingerprint"] == first["fingerprint"]
    assert second["usage"] == first["usage"]


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "another"},
        {"seed": 8},
        {"size": "64x80"},
        {"num_inference_steps": 2},
        {"output_format": "webp"},
        {"output_format": "jpeg", "output_compression": 50},
        {"seed": None},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_another_call_is_drawn(build: BuildApp, other: dict[str, Any]) -> None:
    first, second = await ask_twice(build(), **other)

    assert keys_of(second) != keys_of(first)
    assert second["timings"]["denoise_ms"] > 0


async def test_each_picture_of_a_call_is_found_by_its_own_seed(build: BuildApp) -> None:
    app = build()
    several = (await ask(app, n=3, prompt=f"several {id(app)}")).json()
    second = (await ask(app, seed=8, prompt=f"several {id(app)}")).json()

    assert keys_of(second) == keys_of(several)[1:2]


async def test_a_build_that_serves_no_more_is_not_answered_from(build: BuildApp) -> None:
    serving = {"full_image/cpu/float32/sdpa/torch-0.0.0"}
    first, second = await ask_twice(build(fingerprints=lambda: frozenset(serving)))

    assert keys_of(second) != keys_of(first)


@pytest.mark.parametrize("build", ["redis"], indirect=True)
async def test_a_picture_that_is_decoded_otherwise_is_not_answered_from(build: BuildApp) -> None:
    prompt = f"decoded of {id(build)}"
    decoders = [{}, {"kernels": "modules"}, {"memory_gib": 4}, {}]
    answers = [
        (await ask(build(vae_decoder=decoder), prompt=prompt)).json() for decoder in decoders
    ]
    keys = [tuple(keys_of(answer)) for answer in answers]

    assert len(set(keys[:3])) == 3
    assert keys[3] == keys[0]


async def test_a_picture_that_has_left_the_store_is_drawn_again(
    build: BuildApp, tmp_path: Path
) -> None:
    app = build()
    first = (await ask(app, prompt="gone")).json()
    (tmp_path / "images" / keys_of(first)[0]).unlink()
    second = (await ask(app, prompt="gone")).json()

    assert keys_of(second) != keys_of(first)


async def test_a_picture_that_the_store_cannot_read_is_drawn_again(
    build: BuildApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: FolderImageStore, key: str) -> StoredImage:
        raise StoreUnavailableError(f"cannot read {key}")

    app = build()
    first = (await ask(app, prompt="unreadable")).json()
    monkeypatch.setattr(FolderImageStore, "get", fail)
    second = (await ask(app, prompt="unreadable")).json()

    assert keys_of(second) != keys_of(first)
    [line] = [line for line in caplog.messages if "a cached result cannot be read" in line]
    assert keys_of(first)[0] in line
    assert "unreadable" not in line


def make_slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    get = FolderImageStore.get

    def get_slowly(store: FolderImageStore, key: str) -> StoredImage:
        time.sleep(seconds)
        return get(store, key)

    monkeypatch.setattr(FolderImageStore, "get", get_slowly)


@pytest.mark.parametrize("build", ["router"], indirect=True)
async def test_a_look_up_that_takes_too_long_leaves_time_to_draw(
    build: BuildApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = build()
    await ask(app, prompt="slow", n=2)
    make_slow(monkeypatch, 4.0)
    started = time.monotonic()
    second = (await ask(app, prompt="slow", n=2, timeout_s=4.0)).json()

    assert time.monotonic() - started < 4.0
    assert second["routing"]["pool"] == "default"
    assert "it takes too long" in caplog.text


@pytest.mark.parametrize("build", ["router"], indirect=True)
async def test_pictures_of_a_call_are_read_at_once(
    build: BuildApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = build()
    await ask(app, prompt="at once", n=4)
    make_slow(monkeypatch, 0.5)
    second = (await ask(app, prompt="at once", n=4)).json()

    assert second["routing"]["pool"] == "result-cache"
    assert second["timings"]["store_ms"] < 2 * 500


@pytest.mark.parametrize("build", ["router"], indirect=True)
async def test_a_look_up_is_part_of_a_calls_time(
    loaded: LoadedModel, build: BuildApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = build()
    await ask(app, prompt="in time", n=2)
    make_slow(monkeypatch, 2.0)
    monkeypatch.setattr(type(loaded.stages), "encode", lambda *_: asyncio.sleep(60))
    started = time.monotonic()
    async with open_client(app) as client:
        body = {**SEEDED, "prompt": "in time", "n": 2, "timeout_s": 1.0}
        answer = await client.post("/v1/images/generations", json=body)

    assert answer.status_code == 504
    assert "got 1" in answer.json()["error"]["message"]
    assert time.monotonic() - started < 1.4


async def test_one_callers_pictures_do_not_answer_another(build: BuildApp, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.yaml", alice={}, bob={})
    app = build(keys={"file": str(tmp_path / "keys.yaml")})

    alice, bob = [(await ask(app, keys[name], prompt="shared")).json() for name in ("alice", "bob")]

    assert keys_of(bob)[0].startswith("images/bob/")
    assert keys_of(alice)[0].startswith("images/alice/")


async def test_it_is_off_by_default(loaded: LoadedModel, tmp_path: Path) -> None:
    live = frozenset({loaded.fingerprint})
    first, second = await ask_twice(build_app(loaded, tmp_path, fingerprints=lambda: live))

    assert keys_of(second) != keys_of(first)


@pytest.mark.parametrize(
    ("report", "aged_s", "live"),
    [
        ({}, 0.0, {"one"}),
        ({"is_draining": True}, 0.0, set()),
        ({"is_healthy": False}, 0.0, set()),
        ({"fingerprint": ""}, 0.0, set()),
        ({}, 31.0, set()),
    ],
    ids=["takes-work", "draining", "unhealthy", "does-not-say", "gone"],
)
def test_only_replicas_that_take_work_vouch_for_their_fingerprint(
    report: dict[str, Any], aged_s: float, live: set[str]
) -> None:
    rate = ReplicaRate(SmoothedRate(1.0, 1), {})
    replica = ReplicaReport(
        **{
            "pool": "default",
            "replica_id": "r",
            "sequence": 1,
            "backlog_units": 0.0,
            "interactive_backlog_units": 0.0,
            "max_backlog_units": 1.0,
            "rate": rate,
            "fingerprint": "one",
            **report,
        }
    )
    chooser = LedgerPoolChooser([], RoutingPolicy(), router_id="router")
    chooser.update(LedgerView((AgedReport(replica, aged_s),)))

    assert chooser.fingerprints() == live
