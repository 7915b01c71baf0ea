"""What may be told of a Redis URL: its scheme and, where it can be parsed, its host and port."""

import re
from typing import Final
from urllib.parse import parse_qs, urlsplit

from redis.asyncio.connection import ConnectionPool, parse_url

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
    _check_options(url)
    if parts.scheme == "unix":
        return "unix://"
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" if port is None else f"{parts.scheme}://{name}:{port}"


def _check_options(url: str) -> None:
    """Build a connection, which is not opened, since parsing alone takes options of any name.

    Raises:
        RecordStoreConfigurationError: If it has an option that its scheme does not know.
    """
    try:
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
    except TypeError:
        names = ", ".join(sorted(parse_qs(urlsplit(url).query)))
        raise RecordStoreConfigurationError(
            f"a Redis URL must have options that redis-py knows for its scheme, got {names}"
        ) from None


def _refuse(url: str) -> RecordStoreConfigurationError:
    scheme = _SCHEME.match(url)
    return RecordStoreConfigurationError(
        "a Redis URL must be redis:// or rediss://, and have / ? # @ [ ] and % of its password "
        f"percent-encoded (/ is %2F, # is %23), got {scheme[0] + '...' if scheme else 'no scheme'}"
    )
