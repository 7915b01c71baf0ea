"""The thread that exports usage records, while disks and stores fail."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest
from answering_server import answer_by
from aws_credentials import without_credentials
from jobs_app import wait_until
from usage_records import CollectingExporter, make_record

from cluster.cost import Z_IMAGE
from cluster.errors import StoreConfigurationError
from cluster.telemetry import Outcome
from cluster.usage import UsageRecord, UsageRecorder
from deployments.served_model import ServedModel
from deployments.telemetry_config import UsageS3Config
from deployments.usage_ledger import UsageLedger, build_exporter
from pipeline.request import ImageSize

MODEL = ServedModel("m", "r1", ImageSize(1024, 1024), 8192, 8192, Z_IMAGE)


class FailingRecorder(UsageRecorder):
    """Meets a full disk at its first export."""

    num_failures = 1

    def export_once(self) -> None:
        if self.num_failures:
            self.num_failures -= 1
            raise OSError("no space left on device")
        super().export_once()


class RecordingStore(BaseHTTPRequestHandler):
    """Takes every object, and keeps the names of its headers and its body."""

    taken: ClassVar[list[tuple[set[str], bytes]]] = []

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.taken.append(({name.lower() for name in self.headers}, body))
        self.send_response(200)
        self.send_header("etag", '"1"')
        self.send_header("content-length", "0")
        self.end_headers()


@pytest.fixture
def bucket_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    RecordingStore.taken.clear()
    with answer_by(RecordingStore) as url:
        yield url


def test_objects_carry_no_checksum_that_only_some_stores_know(bucket_url: str) -> None:
    config = UsageS3Config(kind="s3", bucket="usage", endpoint_url=bucket_url, region="us-east-1")
    record = make_record("a", outcome=Outcome.SUCCEEDED)
    build_exporter(config).export([record])

    [(headers, body)] = RecordingStore.taken
    assert body.decode() == record.to_line()
    assert not {name for name in headers if "checksum" in name or "trailer" in name}
    assert "content-md5" in headers


@pytest.mark.parametrize("url", ["http://u:PASSWORD@127.0.0.1:1", "u:PASSWORD@127.0.0.1:1"])
def test_what_an_export_fails_with_does_not_repeat_the_url(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    config = UsageS3Config(kind="s3", bucket="usage", endpoint_url=url, region="us-east-1")
    recorder = UsageRecorder(tmp_path, build_exporter(config))
    recorder.open(make_record("a"))
    recorder.close(make_record("a", outcome=Outcome.SUCCEEDED))

    recorder.export_once()

    assert "could not be exported" in caplog.text
    assert "bucket usage" in caplog.text
    assert "PASSWORD" not in caplog.text


async def test_the_last_export_of_a_router_that_stops_holds_up_no_call(tmp_path: Path) -> None:
    is_free = threading.Event()

    class SlowRecorder(UsageRecorder):
        def stop(self) -> None:
            assert is_free.wait(10), "the event loop waits for the last export"
            super().stop()

    recorder = SlowRecorder(tmp_path, CollectingExporter())
    ledger = UsageLedger(recorder, b"s" * 32, MODEL, is_synced=False, export_period_s=60.0)
    running = asyncio.create_task(ledger.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0.05)
    is_free.set()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_call_waits_for_no_other_thread_to_be_written_down(tmp_path: Path) -> None:
    goes_on = threading.Event()

    class HangingExporter(CollectingExporter):
        def export(self, records: Sequence[UsageRecord]) -> None:
            goes_on.wait()

    recorder = UsageRecorder(tmp_path, HangingExporter())
    ledger = UsageLedger(recorder, b"s" * 32, MODEL, is_synced=True, export_period_s=0.01)
    await ledger.open(make_record("a"))
    recorder.close(make_record("a", outcome=Outcome.SUCCEEDED))
    executor = ThreadPoolExecutor(1)
    executor.submit(goes_on.wait)
    asyncio.get_running_loop().set_default_executor(executor)
    running = asyncio.create_task(ledger.run())
    await asyncio.sleep(0.1)
    try:
        async with asyncio.timeout(5):
            await ledger.open(make_record("b"))
    finally:
        goes_on.set()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def test_an_export_finds_credentials_that_came_after_the_last(
    bucket_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = UsageS3Config(kind="s3", bucket="usage", endpoint_url=bucket_url, region="us-east-1")
    record = make_record("a", outcome=Outcome.SUCCEEDED)
    exporter = build_exporter(config)
    no_credentials = pytest.raises(
        StoreConfigurationError, match="bucket usage: boto3 finds no cred"
    )
    with without_credentials(monkeypatch), no_credentials:
        exporter.export([record])

    exporter.export([record])

    assert [body.decode() for _, body in RecordingStore.taken] == [record.to_line()]


async def test_an_export_that_fails_is_not_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = CollectingExporter()
    recorder = FailingRecorder(tmp_path, exporter)
    ledger = UsageLedger(recorder, b"", MODEL, is_synced=False, export_period_s=0.01)
    running = asyncio.create_task(ledger.run())
    await wait_until(lambda: "no space left" in caplog.text)
    recorder.open(make_record("a"))
    recorder.close(make_record("a", outcome=Outcome.SUCCEEDED))
    await wait_until(lambda: exporter.records)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running

    assert [record.id for record in exporter.records] == ["a"]
