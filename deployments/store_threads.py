"""Blocking calls of a store on threads of its own, so that nothing else waits for them."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_NUM_THREADS: Final = 4


class StoreThreads:
    """Runs the methods of a blocking store for an event loop."""

    def __init__(self, num_threads: int = _NUM_THREADS, *, name: str = "job-store") -> None:
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix=name)

    async def call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method and wait for it; a wait that is cancelled lets a begun call go on."""
        # The context has the caller's span.
        run = contextvars.copy_context().run
        bound = partial(method, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, run, bound)

    def begin(self, method: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have a method called, and wait for nothing."""
        self._executor.submit(method, *args, **kwargs)

    def stop(self) -> None:
        """Let the threads go when their calls are done."""
        self._executor.shutdown(wait=False)
