"""What a job owes its webhook arrives in order, again if it must, and in the end once or never."""

import asyncio
import base64
import contextlib
import ipaddress
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

from cluster.errors import RecordStoreUnavailableError
from cluster.jobs.job import Job, JobFailure, JobKind, JobStatus, Lane
from cluster.jobs.job_store import JobStore
from cluster.jobs.transitions import JobPolicy, claim, finish
from cluster.records import SqliteRecordStore
from deployments.jobs_config import WebhooksConfig
from deployments.store_threads import StoreThreads
from deployments.webhooks.dispatcher import (
    WebhookDispatcher,
    build_rules,
    retry_delay_s,
    schedule_s,
    to_message,
)
from deployments.webhooks.resolver import HostResolver, LookUp, look_up_host
from deployments.webhooks.sender import WebhookSender
from deployments.webhooks.targets import IPAddress

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
async def run_dispatcher(
    store: JobStore, config: WebhooksConfig, look_up: LookUp = look_up_host
) -> AsyncIterator[None]:
    threads = StoreThreads()
    resolver = HostResolver(look_up)
    sender = WebhookSender(build_rules(config), resolver, timeout_s=config.timeout_s)
    dispatcher = WebhookDispatcher(config, sender, store, threads, poll_s=0.002)
    dispatcher.start()
    try:
        yield
    finally:
        await dispatcher.stop()
        resolver.stop()
        threads.stop()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    records = SqliteRecordStore(tmp_path / "jobs.sqlite3")
    with contextlib.closing(records):
        yield JobStore(records, JobPolicy(lease_s=60.0, max_attempts=3, retention_s=60.0))


def new_job(webhook_url: str, now: float = 1.0, *, id: str = "job-1") -> Job:
    return Job(
        id=id,
        owner="anonymous",
        request_id="r",
        kind=JobKind.IMAGE,
        lane=Lane.INTERACTIVE,
        num_items=1,
        created_at=now,
        deadline_at=now + 60,
        estimate_s=1.0,
        webhook_url=webhook_url,
    )


def finish_job(
    store: JobStore, receiver: Receiver, *, id: str = "job-1", host: str = "localhost"
) -> Job:
    url = f"http://{host}:{receiver.port}/hook?token=t"
    store.accept(new_job(url, store.records.now(), id=id), "")
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


@pytest.mark.parametrize("failure", [None, JobFailure("no", "server_error", "internal_error")])
def test_a_running_message_tells_nothing_of_the_end(failure: JobFailure | None) -> None:
    policy = JobPolicy(lease_s=60.0, max_attempts=3, retention_s=60.0)
    running = claim(new_job("https://example.com"), "lease", 2.0, policy)
    finished = finish(running, "lease", failure, 9.0, policy)

    then, _ = finished.deliveries

    assert to_message(finished, then) == to_message(running, then)
    assert json.loads(to_message(finished, then))["data"] == {
        "id": "job-1",
        "object": "image.job",
        "status": "running",
        "created": 1,
        "started": 2,
        "estimate_s": 1.0,
        "num_requests": 1,
    }


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


class LateReceiver(Receiver):
    """Answers when it is let go."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.serving: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            self.arrived.release()
            async with asyncio.timeout(self.seconds):
                await reader.read()
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            writer.close()
            await writer.wait_closed()

    async def let_go(self) -> None:
        """Wait until every sender has gone."""
        await asyncio.gather(*(each for each in self.serving if each is not None))


def look_up_loopback(host: str, port: int) -> list[IPAddress]:
    return [ipaddress.ip_address("127.0.0.1")]


@pytest.mark.parametrize("late_s", [1.5, 60.0])
async def test_a_slow_receiver_of_many_messages_holds_up_no_other(
    store: JobStore, late_s: float
) -> None:
    late = LateReceiver(late_s)
    server = await asyncio.start_server(late.serve, "127.0.0.1", 0)
    late.port = int(server.sockets[0].getsockname()[1])
    for number in range(60):
        finish_job(store, late, id=f"late-{number}", host="late.example.com")
    async with server, run_receiver() as receiver:
        hosts = [f"late.example.com:{late.port}", f"quick.example.com:{receiver.port}"]
        allowing = config(receiver, allowed_hosts=hosts, timeout_s=2.0)
        async with run_dispatcher(store, allowing, look_up_loopback):
            await late.wait_for(1)
            finish_job(store, receiver, host="quick.example.com")
            async with asyncio.timeout(5.0):
                await receiver.wait_for(2)
        await late.let_go()

    types = [json.loads(each.body)["type"] for each in receiver.received]
    assert types == ["job.running", "job.succeeded"]


async def test_an_error_that_nobody_foresaw_stops_nothing(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(host: str, port: int) -> list[IPAddress]:
        if host.startswith("odd"):
            raise ZeroDivisionError
        return look_up_loopback(host, port)

    async with run_receiver() as receiver:
        names = [*(f"odd-{number}" for number in range(10)), "quick"]
        for name in names:
            finish_job(store, receiver, id=name, host=f"{name}.example.com")
        hosts = [f"{name}.example.com:{receiver.port}" for name in names]
        async with run_dispatcher(store, config(receiver, allowed_hosts=hosts), fail):
            await receiver.wait_for(2)
            await wait_until(lambda: store.read("quick").deliveries == ())

    assert caplog.text.count("running failed\nTraceback") == 10


class UnreachableStore(JobStore):
    """Notes that it was asked."""

    num_asked = 0

    def due_deliveries(self, *, limit: int) -> list[Job]:
        self.num_asked += 1
        raise RecordStoreUnavailableError("the job store is away")


@pytest.mark.parametrize(("hosts", "is_asked"), [((), False), (("example.com",), True)])
async def test_a_store_is_asked_only_where_webhooks_are_on(
    store: JobStore, hosts: tuple[str, ...], is_asked: bool
) -> None:
    away = UnreachableStore(store.records, store.policy)
    allowing = config(Receiver(), allowed_hosts=hosts)
    async with run_dispatcher(away, allowing):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await wait_until(lambda: away.num_asked > 1)

    assert (away.num_asked > 1) is is_asked


@given(st.integers(1, 3000))
def test_waits_grow_to_a_bound(num_attempts: int) -> None:
    config = WebhooksConfig(max_attempts=3001)
    delay_s = retry_delay_s(config, num_attempts)

    assert delay_s is not None
    assert min(5 * 3 ** (num_attempts - 1), 3600) <= delay_s <= 1.1 * 3600.0


def test_a_message_is_tried_for_hours_as_configured() -> None:
    assert 3.5 * 3600 < schedule_s(WebhooksConfig()) < 4.5 * 3600
    assert schedule_s(WebhooksConfig(max_attempts=3000)) < 3000 * 4000.0


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
