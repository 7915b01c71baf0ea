"""Checksums that object stores check an upload by."""

from base64 import b64encode
from hashlib import md5


def to_content_md5(content: bytes) -> str:
    """Return the header `Content-MD5`, which stores know that know no other checksum."""
    return b64encode(md5(content, usedforsecurity=False).digest()).decode()
