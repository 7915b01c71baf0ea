"""An image store that tells of each upload."""

from collections.abc import Mapping

from cluster.metrics import record
from cluster.spans import end_span, start_span
from cluster.storage import ImageStore, SignedUrl, StoredImage
from cluster.telemetry import ATTR_KEY, ATTR_NUM_BYTES, SPAN_STORE, UPLOADS, Outcome
from deployments.outcomes import classify


class ObservedStore:
    """Does what the store does; satisfies `ImageStore`."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    @property
    def prefix(self) -> str:
        """What keys of the store start with."""
        return self._store.prefix

    def put(
        self, key: str, content: bytes, *, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        """Store a file within a span, a child of the caller's current one."""
        span = start_span(SPAN_STORE, {ATTR_KEY: key, ATTR_NUM_BYTES: len(content)})
        try:
            self._store.put(key, content, content_type=content_type, metadata=metadata)
        except BaseException as exc:
            outcome, error = classify(exc)
            end_span(span, outcome, error=error)
            record(UPLOADS, result=error)
            raise
        end_span(span, Outcome.SUCCEEDED)
        record(UPLOADS, result=Outcome.SUCCEEDED.value)

    def get(self, key: str) -> StoredImage:
        """Read a file back."""
        return self._store.get(key)

    def exists(self, key: str) -> bool:
        """Say whether `get` would find a file."""
        return self._store.exists(key)

    def delete(self, key: str) -> None:
        """Delete a file."""
        self._store.delete(key)

    def sign(self, key: str, *, lifetime_s: int) -> SignedUrl:
        """Make a URL that reads the file."""
        return self._store.sign(key, lifetime_s=lifetime_s)

    def check(self) -> None:
        """Write and read a small file."""
        self._store.check()
