"""A process's own append-only file of records, which others take over when the process is dead.

A line is one write to a file opened for appending: it survives the process as soon as `append`
returns, and the machine once `sync` has. The process holds a lock on its file for as long as it
lives, so whoever gets the lock knows that the owner is gone, whatever killed it.

A line is a record, open or closed, or `{"exported": [ids]}`.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cluster.errors import TelemetryError
from cluster.usage.record import UsageRecord

_SUFFIX: Final = ".journal"
_DRAFT_SUFFIX: Final = ".draft"
_EXPORTED: Final = "exported"
_READ_BYTES: Final = 2**20

_logger = logging.getLogger(__name__)


class Journal:
    """Appends to one file. Any thread may call it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{secrets.token_hex(8)}{_SUFFIX}"
        # Locked before it has the name by which others find what the dead left.
        self._file: int | None = _open_locked(self._draft_path)
        self._draft_path.replace(self.path)
        self._draft: int | None = None
        """Takes over from the file soon; until then, both get what is written."""
        self._size = 0
        self._lock = threading.Lock()

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
        """Write that these need no export any more.

        Raises:
            OSError: If the disk refuses.
        """
        self._write(json.dumps({_EXPORTED: list(ids)}) + "\n")

    def sync(self) -> None:
        """Wait until the disk has what was written.

        Raises:
            OSError: If the disk refuses.
        """
        with self._lock:
            files = [self._open_file()] if self._draft is None else [self._open_file(), self._draft]
            # The numbers stay open, though a rewrite may end meanwhile.
            copies = [os.dup(file) for file in files]
        try:
            for copy in copies:
                os.fdatasync(copy)
        finally:
            for copy in copies:
                os.close(copy)

    def rewrite(self, records: Iterable[UsageRecord], *, since: int) -> None:
        """Start over with these records, and all that was written after the first `since` bytes.

        What others write meanwhile does not wait for the disk. One thread at a time.

        Raises:
            OSError: If the disk refuses; the journal is as it was.
        """
        file = _open_locked(self._draft_path)
        try:
            _write_all(file, "".join(record.to_line() for record in records).encode())
            os.fdatasync(file)
            with self._lock:
                _write_all(file, _read_from(self._open_file(), since))
                self._draft = file
            os.fdatasync(file)
            self._take_draft()
        except OSError:
            with self._lock:
                self._draft = None
            os.close(file)
            self._draft_path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Let go of the file; another process may take it over, and this one writes no more."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            os.close(file)

    @property
    def _draft_path(self) -> Path:
        return self.path.with_suffix(_DRAFT_SUFFIX)

    def _take_draft(self) -> None:
        with self._lock:
            old, draft = self._open_file(), self._draft
            if draft is None:
                raise OSError(errno.EIO, "the usage journal's draft took not all that was written")
            self._draft_path.replace(self.path)
            self._file, self._draft = draft, None
            self._size = os.fstat(draft).st_size
        os.close(old)

    def _write(self, line: str) -> None:
        content = line.encode()
        with self._lock:
            file = self._open_file()
            try:
                _write_all(file, content)
            except OSError:
                # A full disk may have taken a part, to which the next record would be glued.
                with contextlib.suppress(OSError):
                    os.ftruncate(file, self._size)
                raise
            self._size += len(content)
            self._write_draft(content)

    def _write_draft(self, content: bytes) -> None:
        if self._draft is None:
            return
        try:
            _write_all(self._draft, content)
        except OSError:
            _logger.warning("the usage journal %s is rewritten later", self.path.name)
            self._draft = None

    def _open_file(self) -> int:
        """Return the file's number; once it is closed, the system gives that to another file."""
        if self._file is None:
            raise OSError(errno.EBADF, "the usage journal is closed")
        return self._file


def read_journal(path: Path) -> list[UsageRecord]:
    """Return the last state of each record that is still to be exported, open ones too.

    A line that is neither a record nor a note of an export is left out, and the log says how many
    there were; the last one may be cut off, where a machine died.

    Raises:
        OSError: If the file cannot be read.
    """
    records: dict[str, UsageRecord] = {}
    num_damaged = 0
    for line in path.read_text("utf-8", errors="replace").split("\n")[:-1]:
        try:
            _apply(line, records)
        except TelemetryError:
            num_damaged += 1
    if num_damaged:
        _logger.error("%d damaged lines of the usage journal %s", num_damaged, path.name)
    return list(records.values())


def _apply(line: str, records: dict[str, UsageRecord]) -> None:
    if not line.startswith(f'{{"{_EXPORTED}"'):
        record = UsageRecord.from_line(line)
        records[record.id] = record
        return
    try:
        for record_id in json.loads(line)[_EXPORTED]:
            records.pop(record_id, None)
    except (ValueError, TypeError) as exc:
        raise TelemetryError(f"a note of an export must be JSON, got {line[:64]!r}") from exc


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


def _read_from(file: int, start: int) -> bytes:
    parts = []
    while part := os.pread(file, _READ_BYTES, start):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
