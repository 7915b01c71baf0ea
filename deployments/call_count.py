"""How many calls a router has taken and not yet answered."""

from starlette.types import ASGIApp, Receive, Scope, Send

_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class CallCountMiddleware:
    """Counts what draws or takes a job; a reader of events may stay for minutes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http" or scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        self.num_open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.num_open -= 1
