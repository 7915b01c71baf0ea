"""The thread that exports usage records, while disks and stores fail."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from jobs_app import wait_until
from usage_records import CollectingExporter, make_record

from cluster.cost import Z_IMAGE
from cluster.telemetry import Outcome
from cluster.usage import UsageRecorder
from deployments.served_model import ServedModel
from deployments.usage_ledger import UsageLedger
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
