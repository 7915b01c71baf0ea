"""What may be told of a Redis URL: its scheme and, where it can be parsed, its host and port."""

import re
from typing import Final
from urllib.parse import urlsplit

from redis.asyncio.connection import parse_url

from cluster.errors import RecordStoreConfigurationError

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.ASCII | re.IGNORECASE)


def place_of(url: str) -> str:
    """Return the part of a Redis URL that messages and logs may show.

    Raises:
        RecordStoreConfigurationError: If it is none. What failed is not chained: it has parts of
            the URL, which may be the password's.
    """
    try:
        parse_url(url)
        parts = urlsplit(url)
        host, port = parts.hostname or "localhost", parts.port
    except ValueError:
        raise _refuse(url) from None
    # A password with / ? or # ends the host's part early, and its own beginning reads as a host.
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise _refuse(url)
    if parts.scheme == "unix":
        return "unix://"
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" if port is None else f"{parts.scheme}://{name}:{port}"


def _refuse(url: str) -> RecordStoreConfigurationError:
    scheme = _SCHEME.match(url)
    return RecordStoreConfigurationError(
        "a Redis URL must be redis:// or rediss://, and have / ? # @ [ ] and % of its password "
        f"percent-encoded (/ is %2F, # is %23), got {scheme[0] + '...' if scheme else 'no scheme'}"
    )
