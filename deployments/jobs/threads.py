"""Blocking calls of a store on threads of its own, so that nothing else waits for them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_NUM_THREADS: Final = 4


class StoreThreads:
    """Runs the methods of a blocking store for an event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="job-store")

    async def call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method and wait for it; a wait that is cancelled lets the call go on."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(method, *args, **kwargs))

    def stop(self) -> None:
        """Let the threads go when their calls are done."""
        self._executor.shutdown(wait=False)
