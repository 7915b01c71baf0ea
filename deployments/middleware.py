"""What every HTTP call passes through: a request id, and a bound on its body. Plain ASGI."""

import asyncio
import re
import secrets
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import (
    ApiError,
    BodyTooLargeError,
    BodyTooSlowError,
    ContentEncodingError,
    HeadersTooLargeError,
    InvalidFieldError,
)
from deployments.json_words import say

REQUEST_ID: Final = "x-request-id"
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_MAX_HEADERS: Final = 100
_MAX_HEADER_BYTES: Final = 32 * 1024
_WITHOUT_HEAD: Final = "/v1/images/"
_SERVE_OVERRIDES: Final = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
"""Headers by which a client would override Ray Serve's own policy."""


class RequestIdMiddleware:
    """Takes the request's `x-request-id`; Serve's proxy makes one where none is, and echoes it.

    One that breaks the rule is refused, and the answer has another in its place.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID)
        request_id = given if given and is_request_id(given) else draw_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        refusal = _check_headers(headers)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        answer = to_response(refusal)
        if given not in (None, request_id):
            answer.headers[REQUEST_ID] = request_id
        await answer(scope, receive, send)


def draw_request_id() -> str:
    """Draw an id for a request that has none."""
    return f"req-{secrets.token_hex(12)}"


def is_request_id(text: str) -> bool:
    """Say whether a text may be a request's id: short, and of characters that break no log."""
    return _REQUEST_ID.fullmatch(text) is not None


def has_head(path: str) -> bool:
    """Say whether HEAD is answered where GET is: not for jobs, whose events would go on unseen."""
    return not path.startswith(_WITHOUT_HEAD)


class HeadMiddleware:
    """Answers HEAD as GET without the body, which RFC 9110 asks for, where GET is cheap.

    `Range` is for GET alone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        if not is_head or not has_head(scope["path"]):
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        headers = [each for each in scope["headers"] if each[0] != b"range"]
        get = {**scope, "method": "GET", "headers": headers}
        await self._app(get, receive, send_without_body)


class BodyLimitMiddleware:
    """Answers 413 to a body longer than its route allows, however framed, and 408 to a slow one.

    One that is compressed has no length that could be bounded: its answer is 415.

    A caller that sends a byte now and then would otherwise hold one of the router's places.
    """

    def __init__(self, app: ASGIApp, limit_of: Callable[[str], int], timeout_s: float) -> None:
        self._app = app
        self._limit_of = limit_of
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            await to_response(_encoded(encoding))(scope, receive, send)
            return
        limit = self._limit_of(scope["path"])
        declared = headers.get("content-length", "0")
        if _is_above(declared, limit):
            await to_response(_too_large(limit))(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await _read_body(receive, limit)
        except TimeoutError:
            slow = BodyTooSlowError(f"body must arrive within {self._timeout_s:g} s")
            await to_response(slow)(scope, receive, send)
            return
        except BodyTooLargeError as exc:
            await to_response(exc)(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """Return the whole body; None if the caller has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def to_response(error: ApiError) -> JSONResponse:
    """Turn an error into its answer."""
    return JSONResponse(error.to_body(), status_code=error.status, headers=error.to_headers())


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body as one message, then whatever comes (a disconnect)."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again


def _is_above(declared: str, limit: int) -> bool:
    """Compare a declared length, of any number of digits: Python reads some thousands only."""
    if not declared.isdecimal():
        return False
    digits = declared.lstrip("0")
    return len(digits) > len(str(limit)) or int(digits or "0") > limit


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"body must have at most {limit} bytes")


def _encoded(encoding: str) -> ContentEncodingError:
    return ContentEncodingError(
        f"content-encoding must be identity, got {say(encoding)}", "content-encoding"
    )


def _check_headers(headers: Headers) -> ApiError | None:
    num_bytes = sum(len(name) + len(value) for name, value in headers.raw)
    if len(headers.raw) > _MAX_HEADERS or num_bytes > _MAX_HEADER_BYTES:
        return HeadersTooLargeError(
            f"headers must be at most {_MAX_HEADERS} of {_MAX_HEADER_BYTES} bytes in all, "
            f"got {len(headers.raw)} of {num_bytes}"
        )
    if REQUEST_ID in headers and not is_request_id(headers[REQUEST_ID]):
        return InvalidFieldError(
            f"{REQUEST_ID} must be 1 to 128 visible ASCII characters", REQUEST_ID
        )
    for name in _SERVE_OVERRIDES:
        if name in headers:
            return InvalidFieldError(
                f"header {name} is not taken, set timeout_s in the body instead", name
            )
    return None
