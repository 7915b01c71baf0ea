"""What is done a moment after a call, when its answer is on its way. No HTTP, no Ray."""

import asyncio
from collections.abc import Callable
from typing import Final

AFTER_S: Final = 0.02
"""An answer leaves its replica within this time; what comes later keeps no caller waiting."""


class Afterwards:
    """Runs functions on the event loop a moment later, each in the context that asked for it."""

    def __init__(self, after_s: float = AFTER_S) -> None:
        self._after_s = after_s
        self._waiting: dict[asyncio.TimerHandle, Callable[[], None]] = {}

    def add(self, act: Callable[[], None]) -> None:
        """Run a function later; an error of it is the event loop's to report."""

        def run() -> None:
            del self._waiting[handle]
            act()

        handle = asyncio.get_running_loop().call_later(self._after_s, run)
        self._waiting[handle] = act

    def run_all(self) -> None:
        """Run at once what still waits."""
        while self._waiting:
            handle, act = self._waiting.popitem()
            handle.cancel()
            act()

    async def run(self) -> None:
        """Wait to be cancelled; then nothing is left undone."""
        try:
            await asyncio.Event().wait()
        finally:
            self.run_all()
