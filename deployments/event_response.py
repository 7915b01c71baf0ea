"""An ASGI response of server-sent events that ends when its reader does."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.log import logger

_PIECE_BYTES: Final = 2**18
_HEADERS: Final = {
    "cache-control": "no-store",
    # Asks nginx and those like it to pass each event on at once.
    "x-accel-buffering": "no",
}


class EventStreamResponse(Response):
    """Sends events until they end, the reader leaves, or it takes nothing for too long."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        close: Callable[[], Awaitable[None]],
        *,
        stall_timeout_s: float,
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._close = close
        self._stall_timeout_s = stall_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call; whatever ends it, the events are closed before this returns."""
        tasks = [
            asyncio.ensure_future(self._send_all(send)),
            asyncio.ensure_future(_until_disconnected(receive)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]

    async def _send_all(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async with contextlib.aclosing(self._events):
            async for event in self._events:
                if not await self._send_event(send, event):
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_event(self, send: Send, event: bytes) -> bool:
        """Send in pieces, so that the patience is for a piece and not for a whole picture."""
        for start in range(0, len(event), _PIECE_BYTES):
            piece = event[start : start + _PIECE_BYTES]
            try:
                async with asyncio.timeout(self._stall_timeout_s):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except TimeoutError:
                logger.warning("a stream was cut: nothing taken for %g s", self._stall_timeout_s)
                return False
        return True


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
