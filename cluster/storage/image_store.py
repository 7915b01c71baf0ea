"""The image store, as the rest of the service knows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from cluster.errors import StoreUnavailableError

MAX_LIFETIME_S: Final = 7 * 24 * 3600
"""The longest life of a presigned URL (AWS Signature Version 4)."""


@dataclass(frozen=True)
class StoredImage:
    """A file and what is known about it."""

    content: bytes = field(repr=False)
    content_type: str
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class SignedUrl:
    """A URL that anybody may read from until it expires."""

    url: str = field(repr=False)
    expires_at: int
    """Unix seconds. Sooner than asked for where the credentials expire sooner."""


class ImageStore(Protocol):
    """Keeps files under keys that `build_key` made.

    Methods block: an event loop calls them on a thread. Objects may be pickled, shared by threads,
    and are cheap until the first call. All methods raise `KeyFormatError` for keys that
    `build_key` would not make, and `StoreUnavailableError` or `StoreConfigurationError`.
    """

    @property
    def prefix(self) -> str:
        """What keys of this store start with: the first argument of `build_key`."""
        ...

    def put(
        self, key: str, content: bytes, *, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        """Store a file: whole and durable when this returns, absent or as before when it raises.

        Raises:
            ValueError: If the content type or the metadata cannot be stored.
        """
        ...

    def get(self, key: str) -> StoredImage:
        """Read a file back.

        Raises:
            ImageNotFoundError: If there is none.
        """
        ...

    def exists(self, key: str) -> bool:
        """Say whether `get` would find a file."""
        ...

    def delete(self, key: str) -> None:
        """Delete a file; it is no error if there is none."""
        ...

    def sign(self, key: str, *, lifetime_s: int) -> SignedUrl:
        """Make a URL that reads the file, whether or not it is there yet.

        Raises:
            ValueError: If the lifetime is not within a second and seven days.
        """
        ...

    def check(self) -> None:
        """Write and read a small file, to find out now what would go wrong later."""
        ...


def check_lifetime(lifetime_s: int) -> None:
    """Refuse a lifetime that no store can give a URL.

    Raises:
        ValueError: If it is not within a second and seven days.
    """
    if not 1 <= lifetime_s <= MAX_LIFETIME_S:
        raise ValueError(f"lifetime_s must be in [1, {MAX_LIFETIME_S}], got {lifetime_s}")


def probe(store: ImageStore) -> None:
    """Write and read one small file under a key of its own.

    It is never deleted, so that a store needs no right to delete.

    Raises:
        StoreError: If the file cannot be written, or reads back otherwise.
    """
    key = f"{store.prefix}/probe" if store.prefix else "probe"
    content = b"zimage-serve was here\n"
    store.put(key, content, content_type="text/plain", metadata={"software": "zimage-serve"})
    if store.get(key).content != content:
        raise StoreUnavailableError(f"the store must give back what it was given, at {key}")
