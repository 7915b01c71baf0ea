"""Pictures of a folder store, served at signed URLs."""

import time

from starlette.datastructures import Headers
from starlette.responses import Response

from cluster.errors import ImageNotFoundError, KeyFormatError, UrlExpiredError, UrlSignatureError
from cluster.storage import FolderImageStore
from deployments.errors import ForbiddenError, LinkExpiredError, NotFoundError
from deployments.file_response import to_file_response
from deployments.store_threads import StoreThreads


class SignedFiles:
    """Gives a picture to whoever holds a URL that the service signed."""

    def __init__(self, store: FolderImageStore, threads: StoreThreads) -> None:
        self._store = store
        self._threads = threads

    async def answer(self, key: str, given: Headers, *, expires: int, signature: str) -> Response:
        """Answer a call, with its headers, for a picture.

        Raises:
            ForbiddenError: If the signature is wrong.
            LinkExpiredError: If it has expired.
            NotFoundError: If the picture is gone.
        """
        now = time.time()
        try:
            self._store.verify(key, expires, signature, now)
        except UrlExpiredError as exc:
            raise LinkExpiredError(str(exc), "expires") from exc
        except UrlSignatureError as exc:
            raise ForbiddenError(str(exc)) from exc
        try:
            stored = await self._threads.call(self._store.get, key)
        except (ImageNotFoundError, KeyFormatError) as exc:
            raise NotFoundError("no such file", "key") from exc
        return to_file_response(stored, given, max_age_s=int(expires - now))
