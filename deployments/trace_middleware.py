"""The root of a request's tree: a span an HTTP call, continued from the gateway's `traceparent`.

A caller who has no key gets a span too, so none is named or filled by what it sends as it likes.
"""

from typing import Final

from fastapi import FastAPI
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from cluster.spans import from_carrier, start_span
from cluster.telemetry import ATTR_REQUEST_ID
from deployments.middleware import REQUEST_ID, is_request_id

_TRACED: Final = "/v1/images/"
_CARRIED: Final = ("traceparent", "tracestate")
_METHOD: Final = "http.request.method"
_ROUTE: Final = "http.route"
_OTHER_METHOD: Final = "_OTHER"
"""OpenTelemetry's word for a method that is not known."""
_OTHER_ROUTE: Final = f"{_TRACED}{{other}}"
_STATUS: Final = "http.response.status_code"


class TraceMiddleware:
    """Wraps the HTTP application; outermost, so that its span has the final status."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        routes = [route for route in app.routes if isinstance(route, Route)]
        self._routes = [route for route in routes if route.path.startswith(_TRACED)]
        self._methods = {method for route in self._routes for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call; what draws pictures is traced, health checks are not."""
        if scope["type"] != "http" or not scope["path"].startswith(_TRACED):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID, "")
        attributes = {
            _METHOD: scope["method"] if scope["method"] in self._methods else _OTHER_METHOD,
            _ROUTE: self._to_route(scope["path"]),
            ATTR_REQUEST_ID: request_id if is_request_id(request_id) else "",
        }
        span = start_span(
            f"{attributes[_METHOD]} {attributes[_ROUTE]}",
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

    def _to_route(self, path: str) -> str:
        """Leave ids out, and what is no route of the application's."""
        known = (route.path for route in self._routes if route.path_regex.fullmatch(path))
        return next(known, _OTHER_ROUTE)


def _parent_of(headers: Headers) -> otel_context.Context | None:
    """Return Serve's own span where its tracing is on, else what the gateway sent."""
    if trace.get_current_span().get_span_context().is_valid:
        return None
    return from_carrier({name: headers[name] for name in _CARRIED if name in headers})
