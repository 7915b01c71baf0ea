"""Signed URLs of the folder store: HMAC-SHA256 over the key and the second it expires at."""

import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Final

from cluster.errors import StoreConfigurationError, UrlExpiredError, UrlSignatureError

SECRET_NAME: Final = ".signing-secret"
MIN_SECRET_LENGTH: Final = 32


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
        raise UrlExpiredError(f"the URL expired {int(now - expires_at)} s ago")


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
        StoreConfigurationError: If others than its owner may read it, or it is too short.
        OSError: If it cannot be read or written.
    """
    path = folder / SECRET_NAME
    try:
        found = path.stat()
    except FileNotFoundError:
        _draw_secret(path)
        found = path.stat()
    mode = found.st_mode & 0o777
    if mode & 0o077:
        raise StoreConfigurationError(f"{path} must be readable by its owner only, got {mode:o}")
    return _read_secret(path, found.st_ino, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _read_secret(path: Path, inode: int, changed_ns: int) -> bytes:
    """Read what a file holds as long as it is the same: every URL wants it."""
    return check_secret(path.read_bytes())


def _draw_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(secrets.token_hex(32).encode())
            stream.flush()
            os.fsync(stream.fileno())
        # A link appears whole and never replaces: of several processes the first one wins.
        os.link(part, path)
    except FileExistsError:
        return
    finally:
        part.unlink()
