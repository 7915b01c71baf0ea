"""One execution a key over HTTP, however the calls arrive and fail."""

import asyncio
import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from jobs_app import LoadedModel, RunningApi, app_config, bearer, run_api, wait_until

from cluster.errors import RecordStoreConfigurationError, RecordStoreUnavailableError
from cluster.jobs.idempotency import IdempotencyStore, IdempotentCall
from cluster.jobs.job import Job
from cluster.jobs.job_store import JobStore
from cluster.records import SqliteRecordStore
from deployments.errors import OverloadedError
from deployments.jobs.idempotency import Idempotency, Origin, to_call
from deployments.jobs.outcomes import StoredOutcome
from deployments.jobs.record_stores import build_record_store
from deployments.schemas import ImagesRequest
from deployments.store_threads import StoreThreads

BODY = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 1}


def keyed(api: RunningApi, path: str = "generations", **changes: Any) -> Any:
    key = changes.pop("key", "key-1")
    return api.post(path, {**BODY, **changes}, idempotency_key=key)


def without_urls(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    data = [{**item, "url": None} for item in body["data"]]
    return {**body, "data": data}


async def test_a_repeated_call_has_the_first_result_and_is_not_drawn(api: RunningApi) -> None:
    first, second = await keyed(api), await keyed(api)

    assert (first.status_code, second.status_code) == (200, 200)
    assert without_urls(first) == without_urls(second)
    assert (await api.client.get(second.json()["data"][0]["url"])).status_code == 200
    assert sum(api.stages.drawn().values()) == 1


async def test_calls_that_arrive_at_once_are_drawn_once(api: RunningApi) -> None:
    api.stages.gate.clear()
    calls = [asyncio.create_task(keyed(api)) for _ in range(5)]
    await wait_until(lambda: api.stages.drawn())
    api.stages.gate.set()
    answers = await asyncio.gather(*calls)

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["data"][0]["key"] for answer in answers}) == 1
    assert sum(api.stages.drawn().values()) == 1


async def test_two_routers_draw_once(tmp_path: Path, model: LoadedModel) -> None:
    config = app_config(tmp_path, model.source)
    async with run_api(config, model) as one, run_api(config, model) as two:
        one.stages.gate.clear()
        two.stages.gate.clear()
        calls = [asyncio.create_task(keyed(api)) for api in (one, two)]
        await wait_until(lambda: one.stages.drawn() or two.stages.drawn())
        one.stages.gate.set()
        two.stages.gate.set()
        first, second = await asyncio.gather(*calls)
        drawn = one.stages.drawn() + two.stages.drawn()

    assert first.json()["data"][0]["key"] == second.json()["data"][0]["key"]
    assert sum(drawn.values()) == 1


async def test_the_same_key_with_another_body_conflicts(api: RunningApi) -> None:
    await keyed(api)
    answers = [await keyed(api, seed=5), await keyed(api, path="jobs")]

    assert [answer.status_code for answer in answers] == [409, 409]
    assert answers[0].json()["error"]["code"] == "idempotency_key_reused"


async def test_another_owners_key_is_another_key(
    keyed_api: RunningApi, keys: dict[str, str]
) -> None:
    first = await keyed(keyed_api)
    body, theirs = {**BODY, "seed": 5}, bearer(keys["bob"])
    other = await keyed_api.post("generations", body, idempotency_key="key-1", **theirs)

    assert other.status_code == 200
    assert other.json()["data"][0]["key"] != first.json()["data"][0]["key"]


async def test_a_refusal_is_replayed(api: RunningApi) -> None:
    first = await keyed(api, prompt="x" * 600)
    second = await keyed(api, prompt="x" * 600)

    assert (first.status_code, second.status_code) == (400, 400)
    assert first.json() == second.json()


async def test_a_full_service_is_not_replayed(api: RunningApi) -> None:
    api.stages.failures = [OverloadedError("full", None, 5)]
    first, second = await keyed(api), await keyed(api)

    assert (first.status_code, first.headers["retry-after"]) == (503, "5")
    assert second.status_code == 200


async def test_a_missed_deadline_is_not_replayed(api: RunningApi) -> None:
    api.stages.gate.clear()
    first = await keyed(api, timeout_s=0.2)
    api.stages.gate.set()
    second = await keyed(api, timeout_s=0.2)

    assert first.status_code == 504
    assert sum(api.stages.drawn().values()) == 2, second.text


async def test_the_second_takes_over_when_the_first_fails(api: RunningApi) -> None:
    api.stages.gate.clear()
    first = asyncio.create_task(keyed(api, timeout_s=1.0))
    await wait_until(lambda: api.stages.drawn())
    second = asyncio.create_task(keyed(api, timeout_s=1.0))
    assert (await first).status_code == 504
    api.stages.gate.set()

    assert (await second).status_code == 200


async def test_a_caller_that_went_away_gets_its_picture_by_asking_again(api: RunningApi) -> None:
    api.stages.gate.clear()
    first = asyncio.create_task(keyed(api))
    await wait_until(lambda: api.stages.drawn())
    first.cancel()
    await asyncio.wait([first])
    api.stages.gate.set()

    assert (await keyed(api)).status_code == 200
    assert sum(api.stages.drawn().values()) == 1


async def test_files_are_replayed_from_the_store(api: RunningApi) -> None:
    answers = [await keyed(api, response_format="b64_json") for _ in range(2)]

    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["data"][0]["b64_json"]


async def test_a_repeated_job_is_the_same_job(api: RunningApi) -> None:
    answers = await asyncio.gather(*(keyed(api, path="jobs") for _ in range(5)))
    listed = (await api.client.get("/v1/images/jobs")).json()["data"]

    assert {answer.status_code for answer in answers} == {202}
    assert {answer.json()["id"] for answer in answers} == {listed[0]["id"]}
    assert len(listed) == 1


async def test_a_repeated_batch_is_the_same_batch(api: RunningApi) -> None:
    body = {"requests": [BODY]}
    first, second = [await api.post("batches", body, idempotency_key="k") for _ in range(2)]

    assert first.json()["id"] == second.json()["id"]


@pytest.mark.parametrize("key", ["", "a b", 256 * "k"])
async def test_a_key_has_a_form(api: RunningApi, key: str) -> None:
    answer = await keyed(api, key=key)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "idempotency-key"


async def test_a_stopped_router_frees_its_keys(tmp_path: Path, model: LoadedModel) -> None:
    config = app_config(tmp_path, model.source)
    async with run_api(config, model) as first:
        first.stages.gate.clear()
        call = asyncio.create_task(keyed(first))
        await wait_until(lambda: first.stages.drawn())
        call.cancel()
        await asyncio.wait([call])
    async with run_api(config, model) as second:
        answer = await keyed(second)

    assert answer.status_code == 200
    assert sum(second.stages.drawn().values()) == 1


async def test_a_job_that_was_kept_though_the_store_failed_is_found_by_a_retry(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.stages.gate.clear()
    accept, failures = JobStore.accept, [RecordStoreUnavailableError("the answer was lost")]

    def accept_and_fail(store: JobStore, job: Job, payload: str, **limits: int) -> Job:
        accepted = accept(store, job, payload, **limits)
        if failures:
            raise failures.pop()
        return accepted

    monkeypatch.setattr(JobStore, "accept", accept_and_fail)
    first = await keyed(api, path="jobs")
    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "count_queued", lambda *_, **__: sys.maxsize)
        second = await keyed(api, path="jobs")
    third = await keyed(api, path="jobs")
    listed = (await api.client.get("/v1/images/jobs")).json()["data"]

    assert [answer.status_code for answer in (first, second, third)] == [503, 202, 202]
    assert [job["id"] for job in listed] == [third.json()["id"]]


async def test_what_was_given_up_is_executed_again_from_the_same_origin(tmp_path: Path) -> None:
    call, threads = IdempotentCall("anonymous", "key", "fingerprint"), StoreThreads()
    origins: list[Origin] = []

    async def execute(origin: Origin) -> StoredOutcome:
        origins.append(origin)
        if len(origins) == 1:
            await asyncio.Event().wait()
        return StoredOutcome(job_id=origin.nonce)

    with contextlib.closing(SqliteRecordStore(tmp_path / "jobs.sqlite3")) as records:
        store = IdempotencyStore(records, lease_s=60.0, retention_s=60.0)
        first, second = [Idempotency(store, threads, renew_s=20.0, poll_s=0.01) for _ in range(2)]
        given_up = asyncio.create_task(first.once(call, execute))
        await wait_until(lambda: origins)
        await first.stop()
        outcome = await second.once(call, execute)
    threads.stop()

    assert given_up.cancelled()
    assert origins == 2 * [origins[0]]
    assert outcome.job_id == origins[0].nonce


async def test_an_answer_is_given_though_the_store_refuses_to_keep_it(tmp_path: Path) -> None:
    call, threads = IdempotentCall("anonymous", "key", "fingerprint"), StoreThreads()

    class RefusingStore(IdempotencyStore):
        def complete(self, call: IdempotentCall, lease: str, outcome: str) -> None:
            raise RecordStoreConfigurationError("the job store refused the password")

    async def execute(origin: Origin) -> StoredOutcome:
        return StoredOutcome(job_id=origin.nonce)

    with contextlib.closing(SqliteRecordStore(tmp_path / "jobs.sqlite3")) as records:
        store = RefusingStore(records, lease_s=60.0, retention_s=60.0)
        outcome = await Idempotency(store, threads, renew_s=20.0, poll_s=0.01).once(call, execute)
    threads.stop()

    assert outcome.job_id


async def test_a_call_that_is_resumed_the_next_day_has_its_first_key(
    tmp_path: Path, model: LoadedModel
) -> None:
    day_s = 86_400.0
    config = app_config(tmp_path, model.source)
    call = to_call(
        "/v1/images/generations", "anonymous", "key-1", ImagesRequest.model_validate(BODY)
    )
    with contextlib.closing(build_record_store(config)) as records:
        yesterday = IdempotencyStore(
            records, lease_s=-day_s, retention_s=config.jobs.idempotency_retention_s - day_s / 2
        )
        _, claim = yesterday.claim(call, "dead")
        async with run_api(config, model) as api:
            answer = await keyed(api)

    accepted = claim.expires_at - config.jobs.idempotency_retention_s
    assert answer.json()["created"] == int(accepted)
    assert f"{datetime.fromtimestamp(accepted, UTC):%Y/%m/%d}" in answer.json()["data"][0]["key"]
