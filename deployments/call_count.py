"""How many calls a router has taken and not yet answered."""

from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

_READS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass
class CallCount:
    """Of what draws or takes a job; a reader of events may stay for minutes."""

    num_open: int = 0


class CallCountMiddleware:
    """Counts a call until its last byte is sent."""

    def __init__(self, app: ASGIApp, count: CallCount) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http" or scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        self._count.num_open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count.num_open -= 1
