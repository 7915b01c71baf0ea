"""What is done a moment after a call, when its answer is on its way. No HTTP, no Ray."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Final

AFTER_S: Final = 0.25
"""An answer has left its replica long before. Told at once, a call would delay the next one of its
caller; told together, many calls delay few."""


@dataclass(frozen=True)
class _Act:
    run: Callable[[], None]
    due_s: float
    """By the event loop's clock."""
    context: Context = field(default_factory=copy_context)


class Afterwards:
    """Runs functions on the event loop a moment later, each in the context that asked for it.

    Those that are due run one after another, and whatever else the loop has to do between them. An
    error of one is the event loop's to report, and keeps none of the others from running.
    """

    def __init__(self, after_s: float = AFTER_S) -> None:
        self._after_s = after_s
        self._waiting: deque[_Act] = deque()
        self._handle: asyncio.Handle | None = None

    def add(self, act: Callable[[], None]) -> None:
        """Run a function later."""
        loop = asyncio.get_running_loop()
        # What is added while others run waits for a moment of its own, and they for none of it.
        self._waiting.append(_Act(act, loop.time() + self._after_s))
        if self._handle is None:
            self._handle = self._call_at(loop, self._waiting[0])

    def run_all(self) -> None:
        """Run at once what waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            _run(loop, self._waiting.popleft())
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    async def run(self) -> None:
        """Wait to be cancelled; then nothing is left undone."""
        try:
            await asyncio.Event().wait()
        finally:
            self.run_all()

    def _run_next(self) -> None:
        loop = asyncio.get_running_loop()
        if self._waiting[0].due_s <= loop.time():
            _run(loop, self._waiting.popleft())
        self._handle = None
        if self._waiting:
            self._handle = self._call_at(loop, self._waiting[0])

    def _call_at(self, loop: asyncio.AbstractEventLoop, act: _Act) -> asyncio.Handle:
        # In a context of nobody: it would keep whatever a call had in its own.
        return loop.call_at(act.due_s, self._run_next, context=Context())


def _run(loop: asyncio.AbstractEventLoop, act: _Act) -> None:
    try:
        act.context.run(act.run)
    except Exception as exc:  # noqa: BLE001 - any, as in a callback of the loop's own
        loop.call_exception_handler({"message": "an act after a call failed", "exception": exc})
