"""Usage records of the router's calls: from an order to a record, and the threads that write."""

import asyncio
import secrets
from datetime import UTC, datetime
from typing import Final

from cluster.storage import build_store
from cluster.telemetry import Outcome
from cluster.usage import (
    BucketExporter,
    FileExporter,
    StageMilliseconds,
    StdoutExporter,
    UsageExporter,
    UsageRecord,
    UsageRecorder,
    hash_input,
    load_secret,
)
from cluster.usage.record import to_text
from deployments.drawn_images import DrawnImage, DrawnImages
from deployments.generation import ImagesOrder
from deployments.log import logger
from deployments.pool_choice import Route
from deployments.served_model import ServedModel
from deployments.store_threads import StoreThreads
from deployments.telemetry_config import (
    UsageConfig,
    UsageExportConfig,
    UsageFileConfig,
    UsageS3Config,
)

_SECRET_FILE: Final = "hmac-key"


class UsageLedger:
    """Opens and closes the records of one router's calls."""

    def __init__(
        self,
        recorder: UsageRecorder,
        secret: bytes,
        model: ServedModel,
        *,
        is_synced: bool,
        export_period_s: float,
    ) -> None:
        self._recorder = recorder
        self._secret = secret
        self._model = model
        self._is_synced = is_synced
        self._export_period_s = export_period_s
        # Two: an export may hang for as long as its store does, and no call waits for it.
        self._syncing = StoreThreads(1, name="usage-sync")
        self._exporting = StoreThreads(1, name="usage-export")

    def describe(self, order: ImagesOrder, route: Route) -> UsageRecord:
        """Return the record of a call that is accepted now."""
        return UsageRecord(
            id=order.id,
            request_id=order.request_id,
            key_id=order.key_id,
            accepted_at=to_text(order.accepted),
            model=self._model.name,
            model_revision=self._model.revision,
            size=str(order.size),
            num_images=order.num_images,
            num_inference_steps=order.num_inference_steps,
            priority=order.priority.value,
            path=route.path.value,
            pool=route.pool,
            cost_units=round(order.cost_units, 6),
            input_hmac=hash_input(self._secret, order.prompt),
        )

    async def open(self, record: UsageRecord) -> None:
        """Write that a call was accepted; on disk when this returns, if so configured."""
        self._recorder.open(record)
        if self._is_synced:
            await self._syncing.call(self._recorder.sync)

    def close(
        self,
        opened: UsageRecord,
        outcome: Outcome,
        *,
        error: str | None,
        total_s: float,
        drawn: DrawnImages | None,
    ) -> None:
        """Write how a call ended."""
        images = [] if drawn is None else drawn.images
        peaks = [peak for image in images if (peak := image.peak_memory_bytes) is not None]
        record = opened.end(
            datetime.now(UTC),
            outcome,
            error=error,
            total_ms=round(1000 * total_s, 3),
            stage_ms=_sum_stages(images) if images else None,
            peak_memory_bytes=max(peaks, default=None),
            keys=tuple(image.key for image in images),
        )
        self._recorder.close(record)

    async def run(self) -> None:
        """Export every period until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(self._export_period_s)
                await self._export()
        finally:
            # Not on the event loop, whose calls have yet to finish.
            await self._exporting.call(self._recorder.stop)

    async def _export(self) -> None:
        try:
            await self._exporting.call(self._recorder.export_once)
        except Exception:  # noqa: BLE001 it may be gone at the next time
            logger.exception("usage records could not be exported")


def build_usage_ledger(config: UsageConfig, model: ServedModel) -> UsageLedger | None:
    """Build the ledger; None where no records are kept.

    Raises:
        TelemetryError: If the secret is too short.
        OSError: If the journal's folder cannot be written.
    """
    if not config.enabled:
        return None
    return UsageLedger(
        UsageRecorder(config.journal, build_exporter(config.export)),
        load_secret(config.hmac_key_file or config.journal / _SECRET_FILE),
        model,
        is_synced=config.fsync == "accepted",
        export_period_s=config.export_period_s,
    )


def build_exporter(config: UsageExportConfig) -> UsageExporter:
    """Build what the configuration names."""
    if isinstance(config, UsageFileConfig):
        return FileExporter(config.folder)
    if isinstance(config, UsageS3Config):
        # A stopping router exports once more, and a bucket that hangs must not hold it.
        store = build_store(config.to_options(max_attempts=2))
        return BucketExporter(store, writer=secrets.token_hex(8))
    return StdoutExporter()


def _sum_stages(images: list[DrawnImage]) -> StageMilliseconds:
    """Sum what each picture took; the prompt was encoded once for all."""
    times = [image.times for image in images]
    return StageMilliseconds(
        queue=_ms(sum(each.queue_s for each in times)),
        encode=_ms(times[0].encode_s),
        denoise=_ms(sum(image.share_s for image in images)),
        decode=_ms(sum(each.decode_s for each in times)),
        file=_ms(sum(each.file_s for each in times)),
        store=_ms(sum(each.store_s for each in times)),
    )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
