"""Names of files in a store: pure text, safe as an S3 key, a path and a URL alike."""

import re
from datetime import date
from typing import Final

from cluster.errors import KeyFormatError

MAX_KEY_LENGTH: Final = 512

# A segment cannot start with a dot, so no key reaches "..", nor a store's hidden files.
_SEGMENT: Final = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
_PATH: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_EXTENSION: Final = re.compile(r"[a-z0-9]{1,8}")


def build_key(prefix: str, accepted: date, id: str, index: int, extension: str) -> str:
    """Build `<prefix>/<yyyy>/<mm>/<dd>/<id>/<index>.<extension>`.

    Args:
        prefix: Segments joined by slashes, or empty for none.
        accepted: The day, in UTC, on which the request was accepted.
        id: The server's own id of the request.
        index: Which picture of the request, from 0.
        extension: Without the dot.

    Raises:
        KeyFormatError: If a part has characters that keys do not have.
    """
    check_prefix(prefix)
    if not _ID.fullmatch(id):
        raise KeyFormatError(f"id must be 1 to 128 letters, digits, _ or -, got {id!r}")
    if index < 0:
        raise KeyFormatError(f"index must not be negative, got {index}")
    if not _EXTENSION.fullmatch(extension):
        raise KeyFormatError(f"extension must be 1 to 8 of a-z and 0-9, got {extension!r}")
    return check_key(place_below(prefix, f"{accepted:%Y/%m/%d}/{id}/{index}.{extension}"))


def place_below(prefix: str, key: str) -> str:
    """Return a key below a prefix, which may be empty."""
    return f"{prefix}/{key}" if prefix else key


def check_key(key: str) -> str:
    """Return a key that is well formed.

    Raises:
        KeyFormatError: If it is not made of segments of letters, digits, `.`, `_` and `-` that do
            not start with a dot, or is too long.
    """
    if len(key) > MAX_KEY_LENGTH:
        raise KeyFormatError(f"key must have at most {MAX_KEY_LENGTH} characters, got {len(key)}")
    if not _PATH.fullmatch(key):
        raise KeyFormatError(f"key must be segments of letters, digits, ._-, got {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """Return a prefix that is empty or well formed.

    Raises:
        KeyFormatError: If it is neither.
    """
    if prefix and not _PATH.fullmatch(prefix):
        raise KeyFormatError(f"prefix must be segments of letters, digits, ._-, got {prefix!r}")
    return prefix
