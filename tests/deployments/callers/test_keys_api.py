"""Keys over HTTP: who gets in, to what, and how much of it."""

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from caller_api import SMALL, LoadedModel, build_app, open_client, write_keys
from fakes import SteppedStages
from fastapi import FastAPI
from local_service import build_api_over, local_config
from redis_server import RedisServer

from deployments.keys_config import KeysConfig

GENERATIONS = "/v1/images/generations"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    return write_keys(
        tmp_path / "keys.yaml",
        alice={},
        bob={"prefix": "teams/bob"},
        small={"max_pixels": 64 * 64},
        other={"models": ["another-model"]},
        batch={"priorities": ["batch"]},
        poor={"units_per_minute": 1.0},
        once={"units_per_minute": 0.3},
    )


@pytest.fixture
def app(loaded: LoadedModel, tmp_path: Path, keys: dict[str, str]) -> FastAPI:
    return build_app(loaded, tmp_path, keys={"file": str(tmp_path / "keys.yaml")})


def num_clients(server: RedisServer) -> int:
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        return len(client.client_list(_type="normal"))


async def ask(app: FastAPI, key: str | None, **fields: Any) -> httpx.Response:
    async with open_client(app, key) as client:
        return await client.post(GENERATIONS, json={**SMALL, **fields})


async def test_a_caller_with_a_key_gets_a_picture_below_its_own_prefix(
    app: FastAPI, keys: dict[str, str]
) -> None:
    alice, bob = [(await ask(app, keys[name])).json() for name in ("alice", "bob")]

    assert alice["data"][0]["key"].startswith("images/alice/")
    assert bob["data"][0]["key"].startswith("images/teams/bob/")


async def test_a_signed_url_needs_no_key(app: FastAPI, keys: dict[str, str]) -> None:
    url = (await ask(app, keys["alice"])).json()["data"][0]["url"]

    async with open_client(app) as client:
        assert (await client.get(url)).status_code == 200


async def test_a_signature_opens_no_other_file(app: FastAPI, keys: dict[str, str]) -> None:
    mine = (await ask(app, keys["alice"])).json()["data"][0]
    others = (await ask(app, keys["bob"])).json()["data"][0]
    url = mine["url"].replace(mine["key"], others["key"])

    async with open_client(app, keys["alice"]) as client:
        assert (await client.get(url)).status_code == 403


@pytest.mark.parametrize("key", [None, "", "zs-alice-" + "0" * 64, "sk-whatever"])
@pytest.mark.parametrize("path", [GENERATIONS, "/v1/models", "/v1/anything", "//v1/models"])
async def test_without_a_good_key_everything_is_unauthorized(
    app: FastAPI, key: str | None, path: str
) -> None:
    async with open_client(app, key) as client:
        answer = await client.request("POST", path, json=SMALL)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_a_key_that_was_given_is_not_in_the_answer(app: FastAPI) -> None:
    answer = await ask(app, "zs-alice-" + "5ec2e7" * 10 + "0000")

    assert "5ec2e7" not in answer.text


async def test_two_authorization_headers_are_nobodys(app: FastAPI, keys: dict[str, str]) -> None:
    header = ("authorization", f"Bearer {keys['alice']}")
    async with open_client(app) as client:
        answer = await client.get("/v1/models", headers=[header, header])

    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/openapi.json"])
async def test_health_and_description_need_no_key(app: FastAPI, path: str) -> None:
    async with open_client(app) as client:
        assert (await client.get(path)).status_code == 200


async def test_a_model_that_a_key_may_not_use_does_not_exist(
    app: FastAPI, keys: dict[str, str]
) -> None:
    async with open_client(app, keys["other"]) as client:
        listed = await client.get("/v1/models")
        read = await client.get("/v1/models/tiny")
    answer = await ask(app, keys["other"])

    assert listed.json()["data"] == []
    assert read.status_code == 404
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")


async def test_a_size_above_the_keys_is_refused(app: FastAPI, keys: dict[str, str]) -> None:
    answer = await ask(app, keys["small"], size="80x64")

    assert answer.status_code == 400
    assert "at most 4096 pixels for this key, got 80x64" in answer.json()["error"]["message"]


async def test_a_priority_that_a_key_has_not_is_refused(app: FastAPI, keys: dict[str, str]) -> None:
    named = await ask(app, keys["batch"], priority="interactive")
    unnamed = await ask(app, keys["batch"])

    error = named.json()["error"]
    assert (named.status_code, error["param"]) == (400, "priority")
    assert error["message"] == "priority must be one of ['batch'] for this key, got 'interactive'"
    assert unnamed.status_code == 200


async def test_a_call_dearer_than_the_keys_limit_is_never_let_in(
    app: FastAPI, keys: dict[str, str]
) -> None:
    answer = await ask(app, keys["poor"], size="512x512", num_inference_steps=8)

    assert answer.status_code == 400
    assert "must cost at most 1 units for this key" in answer.json()["error"]["message"]


async def test_use_is_told_by_openais_headers_and_ends_in_429(
    app: FastAPI, keys: dict[str, str]
) -> None:
    fields = {"size": "256x256", "num_inference_steps": 1}
    answers = [await ask(app, keys["once"], **fields) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "1"
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "0"
    assert answers[1].headers["x-ratelimit-remaining-requests"] == "0"
    assert answers[0].headers["x-ratelimit-limit-units"] == "0.3"
    assert 0 < int(answers[1].headers["retry-after"]) <= 60
    assert "x-should-retry" not in answers[1].headers
    error = answers[1].json()["error"]
    assert error["code"] == "rate_limit_exceeded"
    rule = r"cost units a minute must be at most 0\.3 for this key, got 0\.[45]\d*"
    assert re.fullmatch(rule, error["message"])


async def test_a_call_that_the_service_refuses_is_given_back(
    app: FastAPI, keys: dict[str, str]
) -> None:
    fields = {"size": "256x256", "num_inference_steps": 1}
    refused = await ask(app, keys["once"], **fields, prompt="x" * 600)

    assert refused.status_code == 400
    assert (await ask(app, keys["once"], **fields)).status_code == 200


async def test_a_call_whose_urls_cannot_be_signed_is_given_back(
    app: FastAPI, keys: dict[str, str], tmp_path: Path
) -> None:
    fields = {"size": "256x256", "num_inference_steps": 1}
    await ask(app, keys["alice"])
    secret = tmp_path / "images" / ".signing-secret"
    secret.chmod(0o644)
    refused = await ask(app, keys["once"], **fields)
    secret.chmod(0o600)

    assert refused.status_code == 503
    assert (await ask(app, keys["once"], **fields)).status_code == 200


async def test_a_stopped_router_leaves_no_connection_to_redis(
    loaded: LoadedModel,
    tmp_path: Path,
    keys: dict[str, str],
    redis_server: RedisServer,
    cache_server: RedisServer,
) -> None:
    app = build_app(
        loaded,
        tmp_path,
        fingerprints=lambda: frozenset({loaded.fingerprint}),
        keys={"file": str(tmp_path / "keys.yaml"), "redis_url": redis_server.url},
        cache={"results": True, "redis_url": cache_server.url},
    )
    servers = (redis_server, cache_server)
    before = [num_clients(server) for server in servers]
    async with app.router.lifespan_context(app):
        await ask(app, keys["poor"], seed=7)
        during = [num_clients(server) for server in servers]

    assert during == [num + 1 for num in before]
    assert [num_clients(server) for server in servers] == before


async def test_a_call_that_was_too_late_for_itself_is_not_given_back(
    app: FastAPI, keys: dict[str, str]
) -> None:
    fields = {"size": "256x256", "num_inference_steps": 1}
    late = await ask(app, keys["once"], **fields, timeout_s=0.001)

    assert late.status_code == 504
    assert (await ask(app, keys["once"], **fields)).status_code == 429


async def test_a_key_is_good_as_soon_as_the_file_has_it(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    write_keys(file, alice={})
    app = build_app(loaded, tmp_path, keys={"file": str(file), "reload_period_s": 0})

    keys = write_keys(file, alice={}, dora={})

    assert (await ask(app, keys["dora"])).status_code == 200


async def test_without_keys_everyone_is_anonymous(loaded: LoadedModel, tmp_path: Path) -> None:
    answer = await ask(build_app(loaded, tmp_path), "sk-unused")

    assert answer.status_code == 200
    assert "x-ratelimit-limit-requests" not in answer.headers


async def test_a_stream_is_charged_before_it_is_answered(
    app: FastAPI, keys: dict[str, str]
) -> None:
    fields = {"size": "256x256", "stream": True}
    answers = [await ask(app, keys["once"], **fields) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]
    assert "event: image_generation.completed" in answers[0].text
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "0"
    assert answers[1].headers["content-type"] == "application/json"


async def test_a_stream_holds_its_place_while_it_draws(tiny_model: Path, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.yaml", single={"max_concurrent_requests": 1})
    stages = SteppedStages()
    config = local_config(tiny_model, tmp_path / "store")
    ring = KeysConfig(file=tmp_path / "keys.yaml")
    app = build_api_over(config.model_copy(update={"keys": ring}), stages)

    first = asyncio.create_task(ask(app, keys["single"], stream=True))
    await stages.is_entered.wait()
    second = await ask(app, keys["single"], stream=True)
    stages.allow(2)

    assert (second.status_code, (await first).status_code) == (429, 200)
    message = "calls at once must be at most 1 for this key, got 2"
    assert second.json()["error"]["message"] == message
    assert (await ask(app, keys["single"], stream=True)).status_code == 200
