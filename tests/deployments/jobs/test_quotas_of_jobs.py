"""What a key may ask for later, and when it pays."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jobs_app import LoadedModel, RunningApi, app_config, bearer, run_api, wait_until
from redis_server import run_redis

from cluster.jobs.idempotency import IdempotencyStore
from deployments.config import AppConfig
from deployments.jobs.idempotency import to_call
from deployments.jobs.record_stores import build_record_store
from deployments.quota_stores import RedisQuotaStore
from deployments.quotas import QuotaLimits
from deployments.redis_url import read_redis_url
from deployments.schemas import ImagesRequest

BODY = {"prompt": "a red circle", "size": "256x256", "num_inference_steps": 1}
"""More than half of what the key `once` may use in a minute."""
BATCH = {"requests": [{**BODY, "size": "64x64"}]}
DEAR_BATCH = {"requests": [BODY, BODY]}


async def ask(
    api: RunningApi, key: str, path: str, body: dict[str, Any], **headers: str
) -> httpx.Response:
    return await api.post(path, body, **bearer(key), **headers)


@pytest.mark.parametrize(("path", "body"), [("jobs", BODY), ("batches", {"requests": [BODY]})])
async def test_a_job_is_charged_when_it_is_accepted(
    keyed_api: RunningApi, keys: dict[str, str], path: str, body: dict[str, Any]
) -> None:
    keyed_api.stages.gate.clear()
    answers = [await ask(keyed_api, keys["once"], path, body) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 429]
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "0"
    assert int(answers[1].headers["retry-after"]) > 0


@pytest.mark.parametrize("path", ["jobs", "generations"])
async def test_a_replay_is_not_charged(
    keyed_api: RunningApi, keys: dict[str, str], path: str
) -> None:
    calls = [
        await ask(keyed_api, keys["once"], path, BODY, idempotency_key=name)
        for name in ("first", "first", "second")
    ]

    assert [call.is_success for call in calls] == [True, True, False]
    assert calls[2].status_code == 429


async def test_a_call_that_was_refused_does_not_take_its_idempotency_key(
    keyed_api: RunningApi, keys: dict[str, str]
) -> None:
    await ask(keyed_api, keys["once"], "generations", BODY)
    bodies = [BODY, {**BODY, "seed": 5}]
    refused = [
        await ask(keyed_api, keys["once"], "jobs", body, idempotency_key="key") for body in bodies
    ]

    assert [answer.json()["error"]["code"] for answer in refused] == 2 * ["rate_limit_exceeded"]


async def test_a_batch_costs_the_sum_of_its_requests(
    keyed_api: RunningApi, keys: dict[str, str]
) -> None:
    answer = await ask(keyed_api, keys["once"], "batches", DEAR_BATCH)

    assert answer.status_code == 400
    assert "must cost at most 0.3 units for this key" in answer.json()["error"]["message"]


async def test_a_job_that_waits_holds_none_of_its_keys_places(
    keyed_api: RunningApi, keys: dict[str, str]
) -> None:
    keyed_api.stages.gate.clear()
    answers = [await ask(keyed_api, keys["single"], "jobs", BODY) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]


async def test_a_key_without_batch_priority_gets_no_batch(
    keyed_api: RunningApi, keys: dict[str, str]
) -> None:
    answer = await ask(keyed_api, keys["interactive"], "batches", BATCH)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "requests.0.priority"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [("jobs", BODY, "model"), ("batches", BATCH, "requests.0.model")],
)
async def test_a_model_that_a_key_may_not_use_is_not_found(
    keyed_api: RunningApi, keys: dict[str, str], path: str, body: dict[str, Any], param: str
) -> None:
    answer = await ask(keyed_api, keys["other"], path, body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (404, param)


async def test_a_jobs_picture_is_below_its_keys_prefix(keyed_api: RunningApi) -> None:
    accepted = await keyed_api.post("jobs", BODY)
    job = await keyed_api.finish(accepted.json()["id"])

    assert "/alice/" in f"/{job['result']['data'][0]['key']}"


async def test_jobs_ask_for_a_key(keyed_api: RunningApi) -> None:
    answer = await ask(keyed_api, "unknown", "jobs", BODY)

    assert answer.status_code == 401


@pytest.fixture
def shared(tmp_path: Path, model: LoadedModel, keys: dict[str, str]) -> Iterator[AppConfig]:
    """A configuration whose quotas outlive a router."""
    with run_redis(tmp_path) as server:
        limits = {"file": str(tmp_path / "keys.yaml"), "redis_url": server.url}
        yield app_config(tmp_path, model.source, keys=limits)


async def test_a_call_that_a_stopped_router_left_is_charged_once(
    shared: AppConfig, model: LoadedModel, keys: dict[str, str]
) -> None:
    async with run_api(shared, model, key=keys["once"]) as first:
        first.stages.gate.clear()
        call = asyncio.create_task(first.post("generations", BODY, idempotency_key="key"))
        await wait_until(lambda: first.stages.drawn())
    await asyncio.wait([call])
    async with run_api(shared, model, key=keys["once"]) as second:
        answer = await second.post("generations", BODY, idempotency_key="key")

    assert answer.status_code == 200


@pytest.mark.parametrize("key", ["once", "single"])
async def test_a_call_that_a_killed_router_left_is_charged_once(
    shared: AppConfig, model: LoadedModel, keys: dict[str, str], key: str
) -> None:
    call = to_call("/v1/images/generations", key, "key", ImagesRequest.model_validate(BODY))
    limits = {
        "once": QuotaLimits(units_per_minute=0.3),
        "single": QuotaLimits(max_concurrent_requests=1),
    }
    with contextlib.closing(build_record_store(shared)) as records:
        _, claim = IdempotencyStore(records, lease_s=0.0, retention_s=60.0).claim(call, "dead")
    assert shared.keys.redis_url is not None
    quotas = RedisQuotaStore(read_redis_url(shared.keys.redis_url))
    id = f"once-{claim.nonce}"
    await quotas.charge(key, limits[key], 0.25, call_id=id, lease_s=60.0)
    await quotas.close()
    async with run_api(shared, model, key=keys[key]) as second:
        answer = await second.post("generations", BODY, idempotency_key="key")

    assert answer.status_code == 200
