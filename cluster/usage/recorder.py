"""Keeps a process's records: open ones, closed ones, and those that dead processes left behind."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cluster.metrics import record as measure
from cluster.telemetry import USAGE_RECORDS, Outcome
from cluster.usage.exporters import UsageExporter
from cluster.usage.journal import Journal, find_journals, read_journal, take_over
from cluster.usage.record import UsageRecord

_REWRITE_BYTES: Final = 4 * 2**20
"""A journal this long is rewritten without what has been exported."""

_logger = logging.getLogger(__name__)


class UsageRecorder:
    """Writes, exports and recovers. `export_once` is for a thread of its own; the rest never waits.

    A disk or a store that fails is logged and counted and fails no call: a record stays in memory
    and is exported when that works again.
    """

    def __init__(
        self,
        folder: Path,
        exporter: UsageExporter,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self._exporter = exporter
        self._clock = clock
        self._lock = threading.Lock()
        self._export_lock = threading.Lock()
        self._journal = Journal(folder)
        self._open: dict[str, UsageRecord] = {}
        self._closed: dict[str, UsageRecord] = {}

    @property
    def num_open(self) -> int:
        """Calls that have not ended."""
        return len(self._open)

    def open(self, record: UsageRecord) -> None:
        """Write that a call was accepted."""
        with self._lock:
            self._open[record.id] = record
            self._append(record)
        measure(USAGE_RECORDS, state="accepted")

    def close(self, record: UsageRecord) -> None:
        """Write how a call ended."""
        with self._lock:
            self._open.pop(record.id, None)
            self._closed[record.id] = record
            self._append(record)
        measure(USAGE_RECORDS, state="closed")

    def sync(self) -> None:
        """Wait until the disk has every record that was written."""
        try:
            self._journal.sync()
        except OSError:
            _logger.exception("the usage journal could not be written to disk")

    def export_once(self) -> None:
        """Recover, export what is closed, and shorten the journal."""
        with self._export_lock:
            self.sync()
            self._recover()
            with self._lock:
                waiting = list(self._closed.values())
            if waiting and self._export(waiting):
                self._forget(waiting)

    def stop(self) -> None:
        """Export what is closed, and leave the rest to whoever takes the journal over."""
        try:
            self.export_once()
        finally:
            with self._lock:
                self._journal.close()

    def _append(self, record: UsageRecord) -> None:
        try:
            self._journal.append(record)
        except OSError:
            measure(USAGE_RECORDS, state="failed")
            _logger.exception("the usage journal could not be written")

    def _export(self, records: list[UsageRecord]) -> bool:
        try:
            self._exporter.export(records)
        except Exception:
            # Whatever the store raised, the records stay.
            measure(USAGE_RECORDS, len(records), state="failed")
            _logger.exception("%d usage records could not be exported", len(records))
            return False
        measure(USAGE_RECORDS, len(records), state="exported")
        return True

    def _forget(self, exported: list[UsageRecord]) -> None:
        with self._lock:
            for record in exported:
                # A job that was tried again may have closed its record once more meanwhile.
                if self._closed.get(record.id) is record:
                    del self._closed[record.id]
            self._journal.append_exported(record.id for record in exported)
            left = [*self._open.values(), *self._closed.values()]
            num_bytes = self._journal.num_bytes
        if num_bytes > _REWRITE_BYTES:
            self._journal.rewrite(left, since=num_bytes)

    def _recover(self) -> None:
        for path in find_journals(self._folder):
            if path == self._journal.path:
                continue
            try:
                with take_over(path) as is_dead:
                    if is_dead:
                        self._adopt(read_journal(path))
            except OSError:
                _logger.exception("the usage journal %s could not be taken over", path.name)

    def _adopt(self, records: list[UsageRecord]) -> None:
        """Write what a dead process left into this journal, before its own is removed.

        Raises:
            OSError: If the disk refuses; they are adopted at the next time, and an id counts once.
        """
        lost = [record for record in records if record.is_open]
        now = self._clock()
        closed = [record.end(now, Outcome.LOST) if record.is_open else record for record in records]
        with self._lock:
            for record in closed:
                self._journal.append(record)
        self._journal.sync()
        with self._lock:
            self._closed.update((record.id, record) for record in closed)
        measure(USAGE_RECORDS, len(lost), state="lost")
