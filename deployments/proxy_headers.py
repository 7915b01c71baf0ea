"""What Serve's HTTP proxy does to answers. Plain ASGI.

Serve takes it by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`, which is to name
`deployments.proxy_headers.proxy_middlewares`.
"""

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.middleware import REQUEST_ID, draw_request_id, is_request_id


class RequestIdEchoMiddleware:
    """Takes ids that break the rule out of answers; the proxy echoes whatever it was given."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""

        async def send_checked(message: Message) -> None:
            if message["type"] == "http.response.start":
                _keep_one_valid_id(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, send_checked if scope["type"] == "http" else send)


def proxy_middlewares() -> list[Middleware]:
    """Return what Serve puts around its proxy."""
    return [Middleware(RequestIdEchoMiddleware)]


def _keep_one_valid_id(headers: MutableHeaders) -> None:
    ids = headers.getlist(REQUEST_ID)
    valid = [each for each in ids if is_request_id(each)]
    if len(valid) < len(ids):
        del headers[REQUEST_ID]
        headers[REQUEST_ID] = valid[0] if valid else draw_request_id()
