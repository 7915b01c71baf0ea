"""Signed URLs of the folder store: HMAC-SHA256 over the key and the second it expires at."""

import contextlib
import errno
import hmac
import logging
import math
import os
import secrets
import time
from functools import lru_cache
from pathlib import Path
from typing import Final

from cluster.errors import StoreConfigurationError, UrlExpiredError, UrlSignatureError

SECRET_NAME: Final = ".signing-secret"
MIN_SECRET_LENGTH: Final = 32
_NO_LINKS: Final = frozenset({errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS})
"""What file systems without hard links answer, as SMB's and some of FUSE do."""
_WRITING_TIMEOUT_S: Final = 2.0
_WRITING_PERIOD_S: Final = 0.02

_logger = logging.getLogger(__name__)


def sign_key(secret: bytes, key: str, expires_at: int) -> str:
    """Return the signature, in hexadecimal, of a key that may be read until `expires_at`."""
    return hmac.digest(secret, f"{expires_at}\n{key}".encode(), "sha256").hex()


def verify_signature(secret: bytes, key: str, expires_at: int, signature: str, now: float) -> None:
    """Refuse a URL that this secret did not sign, or not for this long.

    Raises:
        UrlSignatureError: If key, expiry or signature differ from what was signed.
        UrlExpiredError: If it was signed, and expired.
    """
    expected = sign_key(secret, key, expires_at)
    # Compared as bytes: compare_digest refuses text outside ASCII, which a caller may send.
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass")):
        raise UrlSignatureError("the URL's signature must be one that this service made")
    if now >= expires_at:
        age_s = max(1, math.ceil(now - expires_at))
        raise UrlExpiredError(f"the URL expired {age_s} s ago")


def check_secret(secret: bytes) -> bytes:
    """Return a secret that is long enough.

    Raises:
        StoreConfigurationError: If it is not.
    """
    if len(secret) < MIN_SECRET_LENGTH:
        raise StoreConfigurationError(
            f"the signing secret must have at least {MIN_SECRET_LENGTH} bytes, got {len(secret)}"
        )
    return secret


def load_secret(folder: Path) -> bytes:
    """Read the folder's secret, drawn by the first process that asks for it.

    Raises:
        StoreConfigurationError: If others than its owner and group may use it, or it is too short.
        OSError: If it cannot be read or written.
    """
    path = folder / SECRET_NAME
    try:
        found = path.stat()
    except FileNotFoundError:
        _draw_secret(path)
        found = path.stat()
    if not found.st_size:
        found = _await_content(path)
    mode = found.st_mode & 0o777
    if mode & 0o007:
        raise StoreConfigurationError(f"{path} must be closed to others, got {mode:o}")
    if mode & 0o070:
        _warn_of_group(path, mode)
    return _read_secret(path, found.st_ino, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _warn_of_group(path: Path, mode: int) -> None:
    """Say once what Kubernetes does by `fsGroup`: it lets the group in at each mount."""
    _logger.warning("the group of %s can use it too, its mode is %o", path, mode)


@lru_cache(maxsize=8)
def _read_secret(path: Path, inode: int, changed_ns: int) -> bytes:
    """Read what a file holds as long as it is the same: every URL wants it."""
    return check_secret(path.read_bytes())


def _draw_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    content = secrets.token_hex(32).encode()
    _write_exclusively(part, content)
    try:
        # A link appears whole and never replaces: of several processes the first one wins.
        os.link(part, path)
    except FileExistsError:
        return
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        # The first one wins here too, but its file is empty for a moment.
        with contextlib.suppress(FileExistsError):
            _write_exclusively(path, content)
    finally:
        part.unlink()


def _write_exclusively(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        path.unlink()
        raise


def _await_content(path: Path) -> os.stat_result:
    """Wait for the process that has just made the file, where it could not appear whole."""
    ends_s = time.monotonic() + _WRITING_TIMEOUT_S
    while not (found := path.stat()).st_size and time.monotonic() < ends_s:
        time.sleep(_WRITING_PERIOD_S)
    return found
