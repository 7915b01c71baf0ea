"""What is done a moment after a call, when its answer is on its way. No HTTP, no Ray."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Final

AFTER_S: Final = 0.25
"""An answer leaves its replica long before. So late since callers come one after another: what was
done at once, each would find in the way of its own call, and this way one in many does."""


class Afterwards:
    """Runs functions on the event loop a moment later, each in the context that asked for it.

    Those of a moment run one after another, and whatever else the loop has to do between them.
    """

    def __init__(self, after_s: float = AFTER_S) -> None:
        self._after_s = after_s
        self._waiting: deque[tuple[Context, Callable[[], None]]] = deque()
        self._handle: asyncio.Handle | None = None

    def add(self, act: Callable[[], None]) -> None:
        """Run a function later; an error of it is the event loop's to report."""
        self._waiting.append((copy_context(), act))
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(self._after_s, self._begin)

    def run_all(self) -> None:
        """Run at once what still waits."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        while self._waiting:
            context, act = self._waiting.popleft()
            context.run(act)

    async def run(self) -> None:
        """Wait to be cancelled; then nothing is left undone."""
        try:
            await asyncio.Event().wait()
        finally:
            self.run_all()

    def _begin(self) -> None:
        self._run_next(len(self._waiting))

    def _run_next(self, num_due: int) -> None:
        """Run one, and see to it that the others follow even if it fails."""
        loop = asyncio.get_running_loop()
        context, act = self._waiting.popleft()
        if num_due > 1:
            self._handle = loop.call_soon(self._run_next, num_due - 1)
        elif self._waiting:
            self._handle = loop.call_later(self._after_s, self._begin)
        else:
            self._handle = None
        context.run(act)
