"""What a job owes its webhook arrives in order, again if it must, and in the end once or never."""

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs_app import wait_until
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook
from webhook_receiver import Receiver, run_receiver

from cluster.jobs.job import Job, JobKind, JobStatus, Lane
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy
from cluster.records import SqliteRecordStore
from deployments.jobs_config import WebhooksConfig
from deployments.store_threads import StoreThreads
from deployments.webhooks.dispatcher import WebhookDispatcher, build_rules, retry_delay_s
from deployments.webhooks.sender import WebhookSender, resolve_host

SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"


def config(receiver: Receiver, **changes: Any) -> WebhooksConfig:
    return WebhooksConfig.model_validate(
        {
            "allowed_hosts": [f"localhost:{receiver.port}"],
            "secret": SECRET,
            "first_delay_s": 0.02,
            "max_delay_s": 0.05,
            "allow_http": True,
            "allow_private_addresses": True,
            **changes,
        }
    )


@contextlib.asynccontextmanager
async def run_dispatcher(store: JobStore, config: WebhooksConfig) -> AsyncIterator[None]:
    threads = StoreThreads()
    sender = WebhookSender(build_rules(config), resolve_host, timeout_s=config.timeout_s)
    dispatcher = WebhookDispatcher(config, sender, store, threads, poll_s=0.002)
    dispatcher.start()
    try:
        yield
    finally:
        await dispatcher.stop()
        threads.stop()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    records = SqliteRecordStore(tmp_path / "jobs.sqlite3")
    with contextlib.closing(records):
        yield JobStore(records, JobPolicy(lease_s=60.0, max_attempts=3, retention_s=60.0))


def finish_job(store: JobStore, receiver: Receiver) -> Job:
    now = store.records.now()
    job = Job(
        id="job-1",
        owner="anonymous",
        request_id="r",
        kind=JobKind.IMAGE,
        lane=Lane.INTERACTIVE,
        num_items=1,
        created_at=now,
        deadline_at=now + 60,
        estimate_s=1.0,
        webhook_url=f"http://localhost:{receiver.port}/hook?token=t",
    )
    store.accept(job, "")
    claimed = store.claim(Lane.INTERACTIVE)
    assert claimed is not None
    return store.finish(claimed, None)


def seconds_to_next_try(store: JobStore) -> float:
    deliver_at = store.read("job-1").deliver_at
    assert deliver_at is not None
    return deliver_at - store.records.now()


def is_settled(store: JobStore) -> bool:
    return store.read("job-1").deliveries == ()


async def test_messages_arrive_in_order_and_verify(store: JobStore) -> None:
    async with run_receiver() as receiver:
        finish_job(store, receiver)
        async with run_dispatcher(store, config(receiver)):
            await receiver.wait_for(2)
            await wait_until(lambda: is_settled(store))

    messages = [
        Webhook(SECRET).verify(each.body.decode(), dict(each.headers)) for each in receiver.received
    ]
    assert [message["type"] for message in messages] == ["job.running", "job.succeeded"]
    assert [message["data"]["status"] for message in messages] == ["running", "succeeded"]
    assert {message["data"]["id"] for message in messages} == {"job-1"}
    assert receiver.received[0].path == "/hook?token=t"


async def test_a_message_is_tried_again_before_the_next_one(store: JobStore) -> None:
    async with run_receiver("500 Oops", "429 Slow", "204 Yes") as receiver:
        finish_job(store, receiver)
        async with run_dispatcher(store, config(receiver)):
            await receiver.wait_for(4)

    ids = [each.headers["webhook-id"] for each in receiver.received]
    types = [json.loads(each.body)["type"] for each in receiver.received]
    assert types == [*(3 * ["job.running"]), "job.succeeded"]
    assert len(set(ids[:3])) == 1
    assert ids[3] != ids[0]


async def test_a_message_is_given_up_after_its_tries(store: JobStore) -> None:
    async with run_receiver("500 Oops", "500 Oops") as receiver:
        finish_job(store, receiver)
        async with run_dispatcher(store, config(receiver, max_attempts=2)):
            await receiver.wait_for(3)
            await wait_until(lambda: is_settled(store))

    types = [json.loads(each.body)["type"] for each in receiver.received]
    assert types == ["job.running", "job.running", "job.succeeded"]


async def test_another_process_goes_on_with_what_is_owed(store: JobStore) -> None:
    async with run_receiver("500 Oops") as receiver:
        finish_job(store, receiver)
        async with run_dispatcher(store, config(receiver, first_delay_s=0.5)):
            await receiver.wait_for(1)
            await wait_until(lambda: seconds_to_next_try(store) < 1.0)
        async with run_dispatcher(store, config(receiver)):
            await receiver.wait_for(2)

    types = [json.loads(each.body)["type"] for each in receiver.received]
    assert types == ["job.running", "job.running", "job.succeeded"]


async def test_a_host_that_is_no_longer_allowed_gets_nothing(store: JobStore) -> None:
    async with run_receiver() as receiver:
        finish_job(store, receiver)
        async with run_dispatcher(store, config(receiver, allowed_hosts=["other.example.com"])):
            await wait_until(lambda: is_settled(store))

    assert receiver.received == []
    assert store.read("job-1").status is JobStatus.SUCCEEDED


@given(st.integers(1, 40))
def test_waits_grow_to_a_bound(num_attempts: int) -> None:
    config = WebhooksConfig(max_attempts=50)
    delay_s = retry_delay_s(config, num_attempts)

    assert delay_s is not None
    assert min(5.0 * 3.0 ** (num_attempts - 1), 3600.0) <= delay_s <= 1.1 * 3600.0


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"allowed_hosts": ["example.com"]}, "secret must be set"),
        ({"allowed_hosts": ["https://example.com"], "secret": SECRET}, "a host must be"),
        ({"allowed_hosts": ["*.example.com"], "secret": SECRET}, "a host must be"),
        ({"secret": "whsec_c2hvcnQ="}, "24 to 64 bytes"),
        ({"secret": SECRET.removeprefix("whsec_")}, "whsec_"),
        ({"secret": "whsec_***"}, "base64"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        WebhooksConfig.model_validate(values)
