"""Every kind of record store, so that one test runs against each."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from redis_server import run_redis

from cluster.records import RecordStore, RedisRecordStore, SqliteRecordStore

OpenStore = Callable[[], RecordStore]
"""Opens the same store once more, as another process would."""


@contextlib.contextmanager
def sqlite_stores(folder: Path) -> Iterator[OpenStore]:
    with contextlib.ExitStack() as opened:

        def open_store() -> RecordStore:
            return opened.enter_context(
                contextlib.closing(SqliteRecordStore(folder / "jobs.sqlite3"))
            )

        yield open_store


@contextlib.contextmanager
def redis_stores(folder: Path) -> Iterator[OpenStore]:
    with run_redis(folder) as server, contextlib.ExitStack() as opened:

        def open_store() -> RecordStore:
            return opened.enter_context(contextlib.closing(RedisRecordStore(server.url)))

        yield open_store


KINDS: Final = {"sqlite": sqlite_stores, "redis": redis_stores}
