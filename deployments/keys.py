"""Who calls: keys in memory, and the middleware that asks for one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.config_file import ConfigurationError
from deployments.errors import UnauthorizedError
from deployments.key_file import KeyEntry, find_entry, read_key_file
from deployments.log import logger
from deployments.middleware import to_response
from deployments.quotas import UNLIMITED, QuotaLimits
from pipeline.request import Priority

_OPEN_PATHS: Final = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
_OPEN_PREFIXES: Final = ("/page/", "/v1/files/")
"""Files are read at URLs that the service signed: whoever has one may read that one file."""
_SCHEME: Final = "bearer "
RESPONSE_HEADERS: Final = "response_headers"


@dataclass(frozen=True)
class Caller:
    """Whom a call belongs to, and what it may ask for."""

    key_id: str = "anonymous"
    models: frozenset[str] | None = None
    """None is all."""
    max_pixels: int | None = None
    priorities: frozenset[Priority] = frozenset(Priority)
    quota: QuotaLimits = UNLIMITED
    prefix: str = ""
    """Below the store's own."""


ANONYMOUS: Final = Caller()


class KeyRing:
    """The keys of a file, read again when the file changes.

    A file that cannot be read leaves the keys as they were, and the log says so: a slip of an
    editor must not lock everyone out.

    Raises:
        ConfigurationError: If the file is wrong at the start.
    """

    def __init__(
        self, file: Path, *, reload_period_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = file
        self._reload_period_s = reload_period_s
        self._clock = clock
        self._looked_s = clock()
        self._stamp = _stamp(file)
        self._entries = _read_entries(file)

    def find(self, key: str) -> Caller | None:
        """Return whose key it is; None if it is nobody's."""
        self._refresh()
        entry = find_entry(self._entries, key)
        return None if entry is None else _to_caller(entry)

    def _refresh(self) -> None:
        now_s = self._clock()
        if now_s - self._looked_s < self._reload_period_s:
            return
        self._looked_s = now_s
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._entries = _read_entries(self._file)
            logger.info("keys: %d callers in %s", len(self._entries), self._file)
        except ConfigurationError as exc:
            logger.error("keys stay as they were: %s", exc)


class KeyMiddleware:
    """Asks for a key where there are keys, and puts the `Caller` on `request.state.caller`.

    What a route leaves in `request.state.response_headers` goes out with its answer, whatever that
    is: a body, an error or a stream.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = ANONYMOUS
        if self._keys is not None and not is_open(scope["path"]):
            found = self._keys.find(_bearer(Headers(scope=scope)))
            if found is None:
                refusal = to_response(UnauthorizedError("a valid key must be given as a bearer"))
                await refusal(scope, receive, send)
                return
            caller = found
        headers: dict[str, str] = {}
        state = scope.setdefault("state", {})
        state |= {"caller": caller, "owner": caller.key_id, RESPONSE_HEADERS: headers}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def is_open(path: str) -> bool:
    """Say whether a path needs no key."""
    return path in _OPEN_PATHS or path.startswith(_OPEN_PREFIXES)


def _bearer(headers: Headers) -> str:
    """Return the key; empty, which is nobody's, if there is none or more than one."""
    given = headers.getlist("authorization")
    if len(given) != 1 or not given[0].lower().startswith(_SCHEME):
        return ""
    return given[0][len(_SCHEME) :].strip()


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """Tell versions of a file apart; a mounted secret changes by a link, so by its inode."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read_entries(file: Path) -> dict[str, KeyEntry]:
    return {entry.name: entry for entry in read_key_file(file).keys}


def _to_caller(entry: KeyEntry) -> Caller:
    return Caller(
        key_id=entry.name,
        models=entry.models,
        max_pixels=entry.max_pixels,
        priorities=entry.priorities,
        quota=entry.quota,
        prefix=entry.prefix or entry.name,
    )
