"""Where closed records go. An exporter may be given a record twice: whoever counts, counts ids."""

import contextlib
import fcntl
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TextIO

from cluster.storage import ImageStore, place_below
from cluster.usage.record import UsageRecord


class UsageExporter(Protocol):
    """Takes closed records to where they are counted."""

    def export(self, records: Sequence[UsageRecord]) -> None:
        """Return when the records are safe.

        Raises:
            Exception: Whatever the store raises; the records are given again later.
        """
        ...


class FileExporter:
    """Appends to `2026-11-25T08.jsonl`: a file an hour, for all processes of the machine.

    On disk when it returns.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def export(self, records: Sequence[UsageRecord]) -> None:
        """Append and wait for the disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for hour, lines in _by_hour(records).items():
            # Unbuffered: what a buffer still holds at an error would be written at its closing.
            with (self._folder / f"{hour}.jsonl").open("ab+", buffering=0) as file:
                # Another process's half line is not to be taken back, nor its lines with it.
                fcntl.flock(file, fcntl.LOCK_EX)
                _append(file.fileno(), "".join(lines).encode())


class StdoutExporter:
    """Writes lines for a collector of logs; as durable as that collector."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def export(self, records: Sequence[UsageRecord]) -> None:
        """Write and flush."""
        self._stream.write("".join(record.to_line() for record in records))
        self._stream.flush()


class BucketExporter:
    """Puts an object an hour and process: `usage/2026-11-25T08/WRITER-0.jsonl`.

    Buckets cannot append, so an hour's object is put again, longer, until a later hour begins: the
    lines of one hour are in memory. What comes late gets an object of its own. Safe when it
    returns.

    Args:
        store: Where the objects go.
        writer: Tells this process's objects from those of others.
    """

    def __init__(self, store: ImageStore, *, writer: str) -> None:
        self._store = store
        self._writer = writer
        self._hour = ""
        self._lines: list[str] = []
        self._num_late: Counter[str] = Counter()

    def export(self, records: Sequence[UsageRecord]) -> None:
        """Put the object of every hour that these records belong to."""
        for hour, lines in sorted(_by_hour(records).items()):
            if hour < self._hour:
                self._num_late[hour] += 1
                self._put(f"{hour}/{self._writer}-{self._num_late[hour]}", lines)
                continue
            known = self._lines if hour == self._hour else []
            self._put(f"{hour}/{self._writer}-0", [*known, *lines])
            self._hour, self._lines = hour, [*known, *lines]

    def _put(self, name: str, lines: Sequence[str]) -> None:
        self._store.put(
            place_below(self._store.prefix, f"{name}.jsonl"),
            "".join(lines).encode(),
            content_type="application/x-ndjson",
            metadata={},
        )


def _append(file: int, content: bytes) -> None:
    size = os.fstat(file).st_size
    # Half a line is what a machine that died has left.
    if size and os.pread(file, 1, size - 1) != b"\n":
        content = b"\n" + content
    try:
        while content:
            content = content[os.write(file, content) :]
        os.fdatasync(file)
    except OSError:
        # A full disk may have taken a part, to which the next record would be glued.
        with contextlib.suppress(OSError):
            os.ftruncate(file, size)
        raise


def _by_hour(records: Sequence[UsageRecord]) -> dict[str, list[str]]:
    lines: dict[str, list[str]] = defaultdict(list)
    for record in records:
        lines[record.hour].append(record.to_line())
    return lines
