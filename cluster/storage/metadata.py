"""Content types and metadata that every store can keep, and their form in HTTP headers."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

MAX_METADATA_BYTES: Final = 2048
"""S3's limit on user-defined metadata: names and values together."""

_CONTENT_TYPE: Final = re.compile(r"[a-z]+/[a-z0-9.+-]+")
_NAME: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_SAFE: Final = "!\"#$&'()*+,/:;<=>?@[\\]^`{|}"
"""Printable ASCII but for the percent sign, and the space that headers lose at their ends."""


def check_content_type(content_type: str) -> None:
    """Refuse what is no media type.

    Raises:
        ValueError: If it is not of the form `type/subtype`.
    """
    if not _CONTENT_TYPE.fullmatch(content_type):
        raise ValueError(f"content_type must be type/subtype, got {content_type!r}")


def to_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Percent-encode values into the ASCII that a header can carry.

    Raises:
        ValueError: If a name is not lower case with hyphens, or all is longer than 2,048 bytes.
    """
    for name in metadata:
        if not _NAME.fullmatch(name):
            raise ValueError(f"metadata names must be a-z, 0-9 and hyphens, got {name!r}")
    headers = {name: quote(value, safe=_SAFE) for name, value in metadata.items()}
    length = sum(len(name) + len(value) for name, value in headers.items())
    if length > MAX_METADATA_BYTES:
        raise ValueError(f"metadata must have at most {MAX_METADATA_BYTES} bytes, got {length}")
    return headers


def from_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Read what `to_headers` wrote."""
    return {name: unquote(value) for name, value in headers.items()}
