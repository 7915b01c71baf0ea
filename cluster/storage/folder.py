"""An image store in a folder: the one of the embedded set-up, served by the router itself.

A file's content type and metadata lie beside it in a hidden JSON file. Keys cannot name hidden
files, so neither these, nor unfinished files, nor the secret can be read through the store.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import (
    ImageNotFoundError,
    StoreConfigurationError,
    StoreUnavailableError,
)
from cluster.storage.image_store import SignedUrl, StoredImage, check_lifetime, probe
from cluster.storage.keys import check_key, check_prefix
from cluster.storage.metadata import check_content_type, to_headers
from cluster.storage.signing import check_secret, load_secret, sign_key, verify_signature


@dataclass(frozen=True)
class FolderStoreOptions:
    """Where files lie, and where they are read from.

    Raises:
        StoreConfigurationError: If `base_url` is no HTTP URL or the secret is too short.
        KeyFormatError: If the prefix has characters that keys do not have.
    """

    folder: Path
    base_url: str
    """Where the router is reached, such as `http://127.0.0.1:8000`."""
    prefix: str = "images"
    secret: str | None = field(default=None, repr=False)
    """Signs URLs; None keeps one in the folder, drawn when it is first needed."""

    def __post_init__(self) -> None:
        check_prefix(self.prefix)
        if not _is_base_url(self.base_url):
            # It is not repeated: it may hold a password.
            raise StoreConfigurationError(
                "base_url must be an HTTP URL with a host and without query or fragment"
            )
        if self.secret is not None:
            check_secret(self.secret.encode())


def _is_base_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        has_host = bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    is_whole = not (url.query or url.fragment) and not re.search(r"\s", text)
    return url.scheme in ("http", "https") and has_host and is_whole


class FolderImageStore:
    """Keeps files in a folder, and signs URLs that `GET /v1/files/{key}` serves."""

    def __init__(self, options: FolderStoreOptions) -> None:
        self._options = options
        self._root = options.folder.expanduser().absolute()
        self._durable: set[Path] = set()  # folders whose own names are on the disk
        self._syncing = ThreadPoolExecutor(thread_name_prefix="store-sync")

    def __reduce__(self) -> tuple[type["FolderImageStore"], tuple[FolderStoreOptions]]:
        """Travel as options: another process has threads of its own."""
        return type(self), (self._options,)

    @property
    def prefix(self) -> str:
        """See `ImageStore.prefix`."""
        return self._options.prefix

    def put(
        self, key: str, content: bytes, *, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        """See `ImageStore.put`. Files are on the disk, not in its cache, when this returns."""
        check_content_type(content_type)
        to_headers(metadata)  # what one store refuses, all refuse
        path = self._path(key)
        facts = {"content_type": content_type, "metadata": dict(metadata)}
        with _store_errors("write", key):
            path.parent.mkdir(parents=True, exist_ok=True)
            # The facts go first, so that no file is ever seen without them.
            files = {_facts_path(path): json.dumps(facts).encode(), path: content}
            _write_all(files, self._syncing)
            self._sync_folders(path.parent)

    def get(self, key: str) -> StoredImage:
        """See `ImageStore.get`."""
        path = self._path(key)
        with _store_errors("read", key):
            if not self.exists(key):
                raise ImageNotFoundError(f"the folder store has no {key}")
            facts: dict[str, Any] = json.loads(_facts_path(path).read_bytes())
            return StoredImage(path.read_bytes(), facts["content_type"], facts["metadata"])

    def exists(self, key: str) -> bool:
        """See `ImageStore.exists`."""
        path = self._path(key)
        with _store_errors("look for", key):
            return path.is_file() and _facts_path(path).is_file()

    def delete(self, key: str) -> None:
        """See `ImageStore.delete`."""
        path = self._path(key)
        with _store_errors("delete", key):
            path.unlink(missing_ok=True)
            _facts_path(path).unlink(missing_ok=True)

    def sign(self, key: str, *, lifetime_s: int) -> SignedUrl:
        """See `ImageStore.sign`."""
        check_key(key)
        check_lifetime(lifetime_s)
        expires_at = int(time.time()) + lifetime_s
        signature = sign_key(self._secret(), key, expires_at)
        base_url = self._options.base_url.rstrip("/")
        query = f"expires={expires_at}&signature={signature}"
        return SignedUrl(f"{base_url}/v1/files/{key}?{query}", expires_at)

    def verify(self, key: str, expires_at: int, signature: str, now: float) -> None:
        """Refuse a URL that this store did not sign, or that has expired at `now`.

        Raises:
            UrlSignatureError: If it was not signed so by this store.
            UrlExpiredError: If it has expired.
        """
        verify_signature(self._secret(), key, expires_at, signature, now)

    def check(self) -> None:
        """See `ImageStore.check`."""
        probe(self)
        self._secret()

    def _sync_folders(self, folder: Path) -> None:
        """Put the names in `folder`, and in those above it up to one known to be there, on disk."""
        chain = [each for each in (folder, *folder.parents) if each.is_relative_to(self._root)]
        known = next((i for i, each in enumerate(chain) if each in self._durable), len(chain) - 1)
        _sync(chain[: known + 1], self._syncing)
        # `folder` itself is one picture's: kept, it would only fill the memory.
        self._durable.update(chain[1:known])

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _secret(self) -> bytes:
        if self._options.secret is not None:
            return self._options.secret.encode()
        with _store_errors("read", "the signing secret"):
            return load_secret(self._root)


@contextmanager
def _store_errors(verb: str, key: str) -> Iterator[None]:
    """Turn the operating system's errors into the store's, in this one place."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StoreUnavailableError(
            f"the folder store cannot {verb} {key}: {reason.lower()}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreUnavailableError(f"the folder store has damaged metadata of {key}") from error


def _facts_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _write_all(files: Mapping[Path, bytes], syncing: Executor) -> None:
    """Write all files or none: in full under hidden names, which are then renamed in order."""
    parts = {path: path.with_name(f".{path.name}.{secrets.token_hex(8)}.part") for path in files}
    try:
        for path, part in parts.items():
            part.write_bytes(files[path])
        _sync(list(parts.values()), syncing)
        for path, part in parts.items():
            part.replace(path)
    except BaseException:
        for part in parts.values():
            part.unlink(missing_ok=True)
        raise


def _sync(paths: Sequence[Path], syncing: Executor) -> None:
    """Wait until files are on the disk, and names in folders.

    All at once: one commit of the file system's journal then serves them all, where one after the
    other each waits for a commit of its own.
    """
    others = [syncing.submit(_sync_one, path) for path in paths[1:]]
    try:
        _sync_one(paths[0])
    finally:
        wait(others)
    for other in others:
        other.result()


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
