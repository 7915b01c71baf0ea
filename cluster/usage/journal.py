"""A process's own append-only file of records, which others take over when the process is dead.

A line is one write to a file opened for appending: it survives the process as soon as `append`
returns, and the machine once `sync` has. The process holds a lock on its file for as long as it
lives, so whoever gets the lock knows that the owner is gone, whatever killed it.

A line is a record, open or closed, or `{"exported": [ids]}`.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cluster.errors import TelemetryError
from cluster.usage.record import UsageRecord

_SUFFIX: Final = ".journal"
_EXPORTED: Final = "exported"


class Journal:
    """Appends to one file. Any thread may call it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{secrets.token_hex(8)}{_SUFFIX}"
        self._file = _open_locked(self.path)
        self._size = 0

    @property
    def num_bytes(self) -> int:
        """Bytes written since it was started or rewritten."""
        return self._size

    def append(self, record: UsageRecord) -> None:
        """Write a record.

        Raises:
            OSError: If the disk refuses.
        """
        self._write(record.to_line())

    def append_exported(self, ids: Iterable[str]) -> None:
        """Write that these need no export any more."""
        self._write(json.dumps({_EXPORTED: list(ids)}) + "\n")

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        os.fdatasync(self._file)

    def rewrite(self, records: Iterable[UsageRecord]) -> None:
        """Start over with these records only, in one step; nothing else may write meanwhile."""
        content = "".join(record.to_line() for record in records).encode()
        draft = self.path.with_suffix(".draft")
        file = _open_locked(draft)
        _write_all(file, content)
        os.fdatasync(file)
        draft.replace(self.path)
        os.close(self._file)
        self._file, self._size = file, len(content)

    def close(self) -> None:
        """Let go of the file; another process may take it over."""
        os.close(self._file)

    def _write(self, line: str) -> None:
        content = line.encode()
        _write_all(self._file, content)
        self._size += len(content)


def read_journal(path: Path) -> list[UsageRecord]:
    """Return the last state of each record that is still to be exported, open ones too.

    The last line may be cut off, where a machine died; any other that is no record is an error.

    Raises:
        TelemetryError: If a line is neither a record nor a note of an export.
    """
    records: dict[str, UsageRecord] = {}
    lines = path.read_text("utf-8", errors="replace").split("\n")
    for line in lines[:-1]:
        if line.startswith(f'{{"{_EXPORTED}"'):
            for record_id in json.loads(line)[_EXPORTED]:
                records.pop(record_id, None)
        else:
            record = UsageRecord.from_line(line)
            records[record.id] = record
    return list(records.values())


@contextlib.contextmanager
def take_over(path: Path) -> Iterator[bool]:
    """Hold a journal whose process is dead, and remove it at the end; False if it lives."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        if not _try_lock(file) or not _is_same_file(file, path):
            yield False
            return
        yield True
        path.unlink()
    finally:
        os.close(file)


def find_journals(folder: Path) -> list[Path]:
    """Return every journal of a folder, the living ones too."""
    return sorted(folder.glob(f"*{_SUFFIX}"))


def _open_locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if not _try_lock(file):
        os.close(file)
        raise TelemetryError(f"a journal must have one writer, got {path} which is locked")
    return file


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same_file(file: int, path: Path) -> bool:
    """Say whether the path still leads to what was opened: a rewrite puts another file there."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
