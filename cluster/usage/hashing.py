"""A keyed hash of a call's input: equal inputs are seen to be equal, and say nothing else."""

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Final

from cluster.errors import TelemetryError

MIN_SECRET_BYTES: Final = 16


def hash_input(secret: bytes, text: str) -> str:
    """Return HMAC-SHA256 in hexadecimal."""
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def load_secret(file: Path) -> bytes:
    """Read the secret, or make it, whoever of several processes comes first.

    Raises:
        TelemetryError: If it is too short.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
        draft.touch(mode=0o600)
        draft.write_bytes(secrets.token_bytes(32))
        try:
            # A link appears whole or not at all, and never replaces what is there.
            file.hardlink_to(draft)
        except FileExistsError:
            return load_secret(file)
        finally:
            draft.unlink()
    secret = file.read_bytes()
    if len(secret) < MIN_SECRET_BYTES:
        raise TelemetryError(
            f"the secret in {file} must have at least {MIN_SECRET_BYTES} bytes, got {len(secret)}"
        )
    return secret
