"""The root of a request's tree: a span an HTTP call, continued from the gateway's `traceparent`."""

from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.spans import from_carrier, start_span
from cluster.telemetry import ATTR_REQUEST_ID
from deployments.middleware import REQUEST_ID, is_request_id

_TRACED: Final = "/v1/images/"
_CARRIED: Final = ("traceparent", "tracestate")
_METHOD: Final = "http.request.method"
_ROUTE: Final = "http.route"
_STATUS: Final = "http.response.status_code"


class TraceMiddleware:
    """Wraps the HTTP application; outermost, so that its span has the final status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call; what draws pictures is traced, health checks are not."""
        if scope["type"] != "http" or not scope["path"].startswith(_TRACED):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        attributes = {
            _METHOD: scope["method"],
            _ROUTE: _to_route(scope["path"]),
            ATTR_REQUEST_ID: _request_id_of(headers),
        }
        span = start_span(
            f"{scope['method']} {attributes[_ROUTE]}",
            attributes,
            context=_parent_of(headers),
            kind=SpanKind.SERVER,
        )

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute(_STATUS, message["status"])
                if message["status"] >= 500:
                    span.set_status(Status(StatusCode.ERROR))
            await send(message)

        token = otel_context.attach(trace.set_span_in_context(span))
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            otel_context.detach(token)
            span.end()


def _parent_of(headers: Headers) -> otel_context.Context | None:
    """Return Serve's own span where its tracing is on, else what the gateway sent."""
    if trace.get_current_span().get_span_context().is_valid:
        return None
    return from_carrier({name: headers[name] for name in _CARRIED if name in headers})


def _request_id_of(headers: Headers) -> str:
    """Return the id that the call is known by; empty for one that is refused."""
    given = headers.get(REQUEST_ID, "")
    return given if is_request_id(given) else ""


def _to_route(path: str) -> str:
    """Leave ids out: a span's name has few values."""
    first, *rest = path.removeprefix(_TRACED).split("/")
    return f"{_TRACED}{first}" + ("/{id}" if rest else "")
