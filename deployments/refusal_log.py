"""The line of log of a call that is refused before it is drawn; one that draws has its observer's.

It names the route by its pattern: what a caller put into a path, a query or a body is not repeated.
"""

import json
import logging
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.log import write_line

_LEAST_STATUS: Final = 400
_SERVER_ERROR: Final = 500


@dataclass
class _Call:
    is_observed: bool = False


_current: ContextVar[_Call | None] = ContextVar("call", default=None)


def leave_line_to_observer() -> None:
    """Say that the call that is being served has its line from elsewhere."""
    call = _current.get()
    if call is not None:
        call.is_observed = True


class RefusalLogMiddleware:
    """Writes a line for each call that ends in an error and that nobody observes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call, status = _Call(), 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            elif status >= _LEAST_STATUS and not call.is_observed:
                call.is_observed = True
                code = read_code(message.get("body", b""))
                # A probe that is told "not ready" is answered in another form.
                if code is not None:
                    _write_line(scope, status, code)

        token = _current.set(call)
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            _current.reset(token)


def _write_line(scope: Scope, status: int, code: str) -> None:
    route = scope.get("route")
    fields = {
        "zimage_request_id": scope.get("state", {}).get("request_id"),
        "method": scope["method"],
        "route": getattr(route, "path", None),
        "status": status,
        "error": code,
    }
    write_line(logging.WARNING if status >= _SERVER_ERROR else logging.INFO, "refuse", fields)


def read_code(body: bytes) -> str | None:
    """Return the code of an error in the service's own form; None of any other body."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return None
    error = answer.get("error") if isinstance(answer, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None
