"""Records in one SQLite file, for the processes of one machine."""

import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from cluster.errors import PayloadsFullError, RecordStoreUnavailableError
from cluster.records.record_store import Event, Record

_BUSY_TIMEOUT_S: Final = 10.0
_BUSY_PERIOD_S: Final = 0.01
_PRIMARY_CODE: Final = 0xFF
"""The part of an extended result code that names its kind."""
_MIN_DATABASE_BYTES: Final = 512
"""A page, of which a database that is not empty has at least one."""
_LOG_SUFFIXES: Final = ("-wal", "-shm")
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS records (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, guard TEXT NOT NULL, body TEXT NOT NULL,
    payload TEXT NOT NULL, num_events INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    name TEXT NOT NULL, score REAL NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (name, score, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_by_id ON entries (id, name);
CREATE TABLE IF NOT EXISTS outcomes (
    id TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (id, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    id TEXT NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (id, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sums (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO sums SELECT 'payload_bytes',
    (SELECT coalesce(sum(length(CAST(payload AS BLOB))), 0) FROM records)
    WHERE NOT EXISTS (SELECT 1 FROM sums);
CREATE TRIGGER IF NOT EXISTS payload_kept AFTER INSERT ON records BEGIN
    UPDATE sums SET value = value + length(CAST(NEW.payload AS BLOB))
    WHERE name = 'payload_bytes'; END;
CREATE TRIGGER IF NOT EXISTS payload_dropped AFTER UPDATE OF payload ON records BEGIN
    UPDATE sums SET value = value + length(CAST(NEW.payload AS BLOB))
    - length(CAST(OLD.payload AS BLOB)) WHERE name = 'payload_bytes'; END;
CREATE TRIGGER IF NOT EXISTS payload_deleted AFTER DELETE ON records BEGIN
    UPDATE sums SET value = value - length(CAST(OLD.payload AS BLOB))
    WHERE name = 'payload_bytes'; END;
COMMIT;
"""
_PAYLOAD_BYTES: Final = "SELECT value FROM sums WHERE name = 'payload_bytes'"

P = ParamSpec("P")
T = TypeVar("T")
Method = Callable[Concatenate["SqliteRecordStore", P], T]


def _maps_errors(method: Method[P, T]) -> Method[P, T]:
    def call(self: "SqliteRecordStore", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except (sqlite3.Error, OSError) as exc:
            raise RecordStoreUnavailableError(
                f"the job store {self.path} failed: {str(exc).lower()}"
            ) from exc

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call


class SqliteRecordStore:
    """See `RecordStore`. The file appears at the first call; its folder is made if it must be."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = None

    def now(self) -> float:
        """See `RecordStore.now`: the machine's clock."""
        return time.time()

    @_maps_errors
    def insert(
        self, record: Record, *, payload: str = "", max_payload_bytes: int | None = None
    ) -> bool:
        """See `RecordStore.insert`."""
        with self._transaction() as cursor:
            cursor.execute(
                "INSERT INTO records (id, version, guard, body, payload)"
                " VALUES (?, 1, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (record.id, record.guard, record.body, payload),
            )
            if not cursor.rowcount:
                return False
            if max_payload_bytes is not None and _sum_payloads(cursor) > max_payload_bytes:
                raise PayloadsFullError(
                    f"payloads must take at most {max_payload_bytes} bytes in all"
                )
            _write_entries(cursor, record)
            return True

    @_maps_errors
    def read(self, id: str) -> Record | None:
        """See `RecordStore.read`."""
        rows = self._select("SELECT body, version, guard FROM records WHERE id = ?", id)
        return Record(id, *rows[0]) if rows else None

    @_maps_errors
    def read_payload(self, id: str) -> str | None:
        """See `RecordStore.read_payload`."""
        rows = self._select("SELECT payload FROM records WHERE id = ?", id)
        return str(rows[0][0]) if rows else None

    @_maps_errors
    def payload_bytes(self) -> int:
        """See `RecordStore.payload_bytes`."""
        return int(self._select(_PAYLOAD_BYTES)[0][0])

    @_maps_errors
    def replace(self, record: Record, *, drops_payload: bool = False) -> bool:
        """See `RecordStore.replace`."""
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE records SET version = version + 1, guard = ?, body = ?"
                " WHERE id = ? AND version = ?",
                (record.guard, record.body, record.id, record.version),
            )
            if not cursor.rowcount:
                return False
            if drops_payload:
                cursor.execute("UPDATE records SET payload = '' WHERE id = ?", (record.id,))
            _write_entries(cursor, record)
            return True

    @_maps_errors
    def delete(self, record: Record) -> bool:
        """See `RecordStore.delete`."""
        with self._transaction() as cursor:
            cursor.execute(
                "DELETE FROM records WHERE id = ? AND version = ?", (record.id, record.version)
            )
            if not cursor.rowcount:
                return False
            for table in ("entries", "outcomes", "events"):
                cursor.execute(f"DELETE FROM {table} WHERE id = ?", (record.id,))
            return True

    @_maps_errors
    def put_outcome(self, id: str, name: str, body: str, *, guard: str) -> bool:
        """See `RecordStore.put_outcome`."""
        with self._transaction() as cursor:
            if not _is_guarded_by(cursor, id, guard):
                return False
            cursor.execute("INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?)", (id, name, body))
            return True

    @_maps_errors
    def read_outcomes(self, id: str) -> dict[str, str]:
        """See `RecordStore.read_outcomes`."""
        return dict(self._select("SELECT name, body FROM outcomes WHERE id = ?", id))

    @_maps_errors
    def append_event(self, id: str, body: str, *, keep: int, guard: str) -> bool:
        """See `RecordStore.append_event`."""
        with self._transaction(waits_for_disk=False) as cursor:
            if not _is_guarded_by(cursor, id, guard):
                return False
            number = cursor.execute(
                "UPDATE records SET num_events = num_events + 1 WHERE id = ? RETURNING num_events",
                (id,),
            ).fetchone()[0]
            cursor.execute("INSERT INTO events VALUES (?, ?, ?)", (id, number, body))
            cursor.execute("DELETE FROM events WHERE id = ? AND number <= ?", (id, number - keep))
            return True

    @_maps_errors
    def read_events(self, id: str, *, after: int) -> list[Event]:
        """See `RecordStore.read_events`."""
        query = "SELECT number, body FROM events WHERE id = ? AND number > ? ORDER BY number"
        return [Event(*row) for row in self._select(query, id, after)]

    @_maps_errors
    def first(self, index: str, *, until: float, limit: int) -> list[str]:
        """See `RecordStore.first`."""
        query = "SELECT id FROM entries WHERE name = ? AND score <= ? ORDER BY score, id LIMIT ?"
        return [id for (id,) in self._select(query, index, until, limit)]

    @_maps_errors
    def count(self, index: str, *, below: float) -> int:
        """See `RecordStore.count`."""
        query = "SELECT count(*) FROM entries WHERE name = ? AND score < ?"
        return int(self._select(query, index, below)[0][0])

    @_maps_errors
    def page(self, index: str, *, after: str | None, limit: int) -> list[str]:
        """See `RecordStore.page`."""
        query = "SELECT id FROM entries WHERE name = ? ORDER BY score DESC, id DESC LIMIT ?"
        if after is None:
            return [id for (id,) in self._select(query, index, limit)]
        query = (
            "SELECT id FROM entries WHERE name = ? AND (score, id) <"
            " (SELECT score, id FROM entries WHERE id = ? AND name = ?)"
            " ORDER BY score DESC, id DESC LIMIT ?"
        )
        return [id for (id,) in self._select(query, index, after, index, limit)]

    @_maps_errors
    def check(self) -> None:
        """See `RecordStore.check`: the file is opened and written to."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM outcomes WHERE id = ''")

    def close(self) -> None:
        """See `RecordStore.close`."""
        with self._reading, self._lock:
            for connection in (self._connection, self._reader):
                if connection is not None:
                    connection.close()
            self._connection = self._reader = None

    def _select(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        # By a connection of its own: what is read does not wait for what is written to the disk.
        with self._reading, closing(self._open_reader().execute(query, values)) as cursor:
            return cursor.fetchall()

    @contextmanager
    def _transaction(self, *, waits_for_disk: bool = True) -> Iterator[sqlite3.Cursor]:
        with self._locked():
            connection = self._open()
            # NORMAL survives the death of every process, and the machine's if anything that
            # waits for the disk is written after it.
            connection.execute(f"PRAGMA synchronous = {'FULL' if waits_for_disk else 'NORMAL'}")
            # IMMEDIATE: a transaction that reads before it writes must not lose the race for
            # the write lock half-way, which SQLite answers with an error and not by waiting.
            connection.execute("BEGIN IMMEDIATE")
            with connection, closing(connection.cursor()) as cursor:
                yield cursor

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait for this process's other writers as long as for another's, and not for each."""
        if not self._lock.acquire(timeout=_BUSY_TIMEOUT_S):
            raise sqlite3.OperationalError("database is locked")
        try:
            yield
        finally:
            self._lock.release()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _make_file(self.path)
            connection = self._connect()
            _prepare(connection, self.path)
            self._reader = self._connect()
            self._connection = connection
        return self._connection

    def _open_reader(self) -> sqlite3.Connection:
        while self._reader is None:
            with self._lock:
                self._open()
        return self._reader

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )


def _make_file(path: Path) -> None:
    """Make the file, or leave one that is there as it is.

    Raises:
        RecordStoreUnavailableError: If what is there cannot be a database.
    """
    with suppress(FileExistsError):
        # SQLite gives the files of its write-ahead log the mode that the database has by then.
        path.touch(0o600, exist_ok=False)
    status = path.stat()
    # SQLite takes a file of one byte for an empty one.
    if not stat.S_ISREG(status.st_mode) or 0 < status.st_size < _MIN_DATABASE_BYTES:
        raise _not_a_database(path)


def _not_a_database(path: Path) -> RecordStoreUnavailableError:
    return RecordStoreUnavailableError(
        f"jobs.store.path must be a SQLite database, an empty file or none yet, got {path}"
    )


def _keep_private(path: Path) -> None:
    """Let only the owner read the database, which holds prompts, and the files beside it."""
    for file in (path, *(path.with_name(f"{path.name}{end}") for end in _LOG_SUFFIXES)):
        # The last connection of another process removes the log when it closes.
        with suppress(FileNotFoundError):
            file.chmod(0o600)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables. SQLite waits for no other connection when it changes the journal's mode."""
    ends_s = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            # SQLite reads the first bytes itself: were the file opened and closed beside it, its
            # locks of this process would end.
            connection.execute("PRAGMA schema_version")
            _keep_private(path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            return
        except sqlite3.DatabaseError as exc:
            code = exc.sqlite_errorcode & _PRIMARY_CODE
            if code == sqlite3.SQLITE_BUSY and time.monotonic() <= ends_s:
                time.sleep(_BUSY_PERIOD_S)
                continue
            connection.close()
            if code == sqlite3.SQLITE_NOTADB:
                raise _not_a_database(path) from exc
            raise


def _is_guarded_by(cursor: sqlite3.Cursor, id: str, guard: str) -> bool:
    query = "SELECT 1 FROM records WHERE id = ? AND guard = ?"
    return cursor.execute(query, (id, guard)).fetchone() is not None


def _sum_payloads(cursor: sqlite3.Cursor) -> int:
    return int(cursor.execute(_PAYLOAD_BYTES).fetchone()[0])


def _write_entries(cursor: sqlite3.Cursor, record: Record) -> None:
    cursor.execute("DELETE FROM entries WHERE id = ?", (record.id,))
    cursor.executemany(
        "INSERT INTO entries VALUES (?, ?, ?)",
        [(name, score, record.id) for name, score in record.indexes.items()],
    )
