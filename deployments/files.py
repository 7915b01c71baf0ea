"""Pictures of a folder store, served at signed URLs."""

import time

from cluster.errors import ImageNotFoundError, KeyFormatError, UrlError
from cluster.storage import FolderImageStore, StoredImage
from deployments.errors import ForbiddenError, NotFoundError
from deployments.store_threads import StoreThreads


class SignedFiles:
    """Reads a picture for whoever holds a URL that the service signed."""

    def __init__(self, store: FolderImageStore, threads: StoreThreads) -> None:
        self._store = store
        self._threads = threads

    async def read(self, key: str, *, expires: int, signature: str) -> StoredImage:
        """Read a picture.

        Raises:
            ForbiddenError: If the signature is wrong or has expired.
            NotFoundError: If the picture is gone.
        """
        try:
            self._store.verify(key, expires, signature, now=time.time())
        except UrlError as exc:
            raise ForbiddenError(str(exc)) from exc
        try:
            return await self._threads.call(self._store.get, key)
        except (ImageNotFoundError, KeyFormatError) as exc:
            raise NotFoundError("no such file", "key") from exc
