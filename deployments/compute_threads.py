"""The threads that compute, and who goes first where they share cores with a router."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

_NICER_BY: Final = 4
"""From the 15 that Ray gives its workers to the last place, 19."""


def go_behind() -> None:
    """Let other threads go before the calling one and those that it will start.

    A stage computes in what is left of the time; a router that has an answer to give waits for no
    slice of it to end. Linux knows niceness by thread, other systems by process.
    """
    if sys.platform == "linux":
        os.nice(_NICER_BY)


def load_on_new_thread(load: Callable[[], T]) -> T:
    """Load where a lower place in the queue for cores stays with the threads that it starts."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="load") as thread:
        return thread.submit(load).result()
