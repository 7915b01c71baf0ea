"""The files of one call in the image store: all of them are kept, or none."""

import threading
from collections.abc import Mapping

from cluster.errors import StoreError
from cluster.storage import ImageStore
from deployments.log import logger
from deployments.store_threads import StoreThreads


class CallFiles:
    """Stores files, and takes them back when their call fails."""

    def __init__(self, store: ImageStore, threads: StoreThreads) -> None:
        self._store = store
        self._threads = threads
        self._lock = threading.Lock()
        self._stored: list[str] = []
        self._is_dropped = False

    async def put(
        self, key: str, content: bytes, *, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        """Store a file; see `ImageStore.put`."""
        await self._threads.call(self._put, key, content, content_type, metadata)

    def drop(self) -> None:
        """Have all files deleted, also one that is still being stored; wait for none of it."""
        with self._lock:
            self._is_dropped = True
            keys = list(self._stored)
        for key in keys:
            self._threads.begin(self._delete, key)

    def _put(
        self, key: str, content: bytes, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        self._store.put(key, content, content_type=content_type, metadata=metadata)
        with self._lock:
            self._stored.append(key)
            is_dropped = self._is_dropped
        if is_dropped:
            self._delete(key)

    def _delete(self, key: str) -> None:
        try:
            self._store.delete(key)
        except StoreError as exc:
            logger.warning("the picture %s of a failed call stays in the store: %s", key, exc)
