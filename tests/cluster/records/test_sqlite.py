"""What only the store in a file does."""

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from cluster.errors import RecordStoreUnavailableError
from cluster.records import Record, SqliteRecordStore, sqlite


def test_reading_does_not_wait_for_a_write(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    with closing(SqliteRecordStore(file)) as store, closing(sqlite3.connect(file)) as other:
        store.insert(Record("a", "first"))
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        writer = threading.Thread(target=store.insert, args=(Record("b", "second"),))
        writer.start()

        found = [store.read("a") for _ in range(100)]

        is_waiting = writer.is_alive()
        other.execute("ROLLBACK")
        writer.join()
        assert is_waiting
        assert all(found)
        assert store.read("b") is not None


def test_a_writer_waits_no_longer_for_others_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_S", 0.1)
    with closing(SqliteRecordStore(tmp_path / "jobs.sqlite3")) as store:
        store.insert(Record("a", "first"))
        # As by a writer that waits for another process.
        with store._lock, pytest.raises(RecordStoreUnavailableError, match="is locked"):
            store.insert(Record("b", "second"))

        assert store.insert(Record("b", "second"))


def test_a_record_without_indexes_is_new_once(tmp_path: Path) -> None:
    with closing(SqliteRecordStore(tmp_path / "jobs.sqlite3")) as store:
        assert store.insert(Record("a", "first"))
        assert not store.insert(Record("a", "second"))


def test_events_and_what_follows_them_are_there_for_another_process(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    with closing(SqliteRecordStore(file)) as store, closing(SqliteRecordStore(file)) as other:
        store.insert(Record("a", "body", guard="me"))
        store.append_event("a", "step", keep=8, guard="me")
        store.put_outcome("a", "0", "done", guard="me")

        assert [event.body for event in other.read_events("a", after=0)] == ["step"]
        assert other.read_outcomes("a") == {"0": "done"}


def test_a_file_that_many_open_at_once_is_opened_by_all(tmp_path: Path) -> None:
    for index in range(20):
        stores = [SqliteRecordStore(tmp_path / f"{index}.sqlite3") for _ in range(8)]
        barrier = Barrier(len(stores))

        def count(store: SqliteRecordStore, barrier: Barrier = barrier) -> int:
            barrier.wait()
            return store.count("index", below=1.0)

        with ThreadPoolExecutor(len(stores)) as threads:
            counts = list(threads.map(count, stores))
        for store in stores:
            store.close()

        assert counts == [0] * len(stores)


@pytest.fixture
def lax_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def read_modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


@pytest.mark.usefixtures("lax_umask")
def test_only_the_owner_reads_the_database_and_its_log(tmp_path: Path) -> None:
    with closing(SqliteRecordStore(tmp_path / "jobs")) as store:
        store.insert(Record("a", "body"), payload="a prompt")

        assert read_modes(tmp_path) == dict.fromkeys(["jobs", "jobs-wal", "jobs-shm"], 0o600)


@pytest.mark.usefixtures("lax_umask")
def test_a_log_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    file = tmp_path / "jobs"
    with closing(SqliteRecordStore(file)) as store, closing(SqliteRecordStore(file)) as later:
        store.insert(Record("a", "body"), payload="a prompt")
        for name in ("jobs", "jobs-wal", "jobs-shm"):
            (tmp_path / name).chmod(0o644)
        later.read("a")

        assert read_modes(tmp_path) == dict.fromkeys(["jobs", "jobs-wal", "jobs-shm"], 0o600)


@pytest.mark.usefixtures("lax_umask")
@pytest.mark.parametrize("content", [b"#", b"a: 1\n", b"key\n" * 1000])
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "notes"
    file.write_bytes(content)
    with (
        closing(SqliteRecordStore(file)) as store,
        pytest.raises(RecordStoreUnavailableError, match=rf"^jobs.store.path must .* got {file}$"),
    ):
        store.check()

    assert file.read_bytes() == content
    assert read_modes(tmp_path) == {"notes": 0o644}


@pytest.mark.usefixtures("lax_umask")
def test_a_folder_in_place_of_the_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    with (
        closing(SqliteRecordStore(folder)) as store,
        pytest.raises(RecordStoreUnavailableError, match=r"^jobs.store.path must "),
    ):
        store.check()

    assert read_modes(tmp_path) == {"home": 0o755}


def test_payloads_of_a_file_that_did_not_count_them_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE records (id TEXT PRIMARY KEY, version INTEGER NOT NULL, guard TEXT NOT"
            " NULL, body TEXT NOT NULL, payload TEXT NOT NULL, num_events INTEGER NOT NULL"
            " DEFAULT 0) WITHOUT ROWID"
        )
        connection.execute("INSERT INTO records VALUES ('a', 1, '', '', 'é', 0)")
    with closing(SqliteRecordStore(path)) as store:
        assert store.payload_bytes() == 2
        store.replace(Record("a", "", version=1), drops_payload=True)
        assert store.payload_bytes() == 0
