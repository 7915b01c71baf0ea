"""What every HTTP call passes through: a request id, and a bound on its body. Plain ASGI."""

import re
import secrets
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import ApiError, BodyTooLargeError, InvalidFieldError

REQUEST_ID: Final = "x-request-id"
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_SERVE_OVERRIDES: Final = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
"""Headers by which a client would override Ray Serve's own policy."""


class RequestIdMiddleware:
    """Takes the request's `x-request-id`; Serve's proxy makes one where none is, and echoes it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID)
        scope.setdefault("state", {})["request_id"] = given or f"req-{secrets.token_hex(12)}"
        refusal = _check_headers(headers)

        app = self._app if refusal is None else to_response(refusal)
        await app(scope, receive, send)


class BodyLimitMiddleware:
    """Answers 413 when a body is longer than its route allows, however it is framed."""

    def __init__(self, app: ASGIApp, limit_of: Callable[[str], int]) -> None:
        self._app = app
        self._limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit_of(scope["path"])
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            await to_response(_too_large(limit))(scope, receive, send)
            return
        body = bytearray()
        is_complete = False
        while not is_complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            is_complete = not message.get("more_body", False)
            if len(body) > limit:
                await to_response(_too_large(limit))(scope, receive, send)
                return
        await self._app(scope, _replay(bytes(body), receive), send)


def to_response(error: ApiError) -> JSONResponse:
    """Turn an error into its answer."""
    return JSONResponse(error.to_body(), status_code=error.status, headers=error.to_headers())


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body as one message, then whatever comes (a disconnect)."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"body must have at most {limit} bytes")


def _check_headers(headers: Headers) -> InvalidFieldError | None:
    if REQUEST_ID in headers and not _REQUEST_ID.fullmatch(headers[REQUEST_ID]):
        return InvalidFieldError(
            f"{REQUEST_ID} must be 1 to 128 visible ASCII characters", REQUEST_ID
        )
    for name in _SERVE_OVERRIDES:
        if name in headers:
            return InvalidFieldError(
                f"header {name} is not taken, set timeout_s in the body instead", name
            )
    return None
