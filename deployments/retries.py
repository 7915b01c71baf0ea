"""What is tried again: work whose replica was lost or had no room. The seed makes it the same.

A picture that is drawn is kept for a while when its store is away: drawing costs a GPU's time.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from cluster.errors import StoreUnavailableError
from cluster.metrics import record
from cluster.telemetry import RETRIES
from deployments.errors import PoisonedRequestError, ReplicaLostError
from pipeline.errors import CancelledError, ReplicaFailedError, ReplicaFullError

T = TypeVar("T")

MAX_LOST: Final = 2
"""A request that took two replicas with it is taken for the cause."""
MAX_FULL: Final = 5
_FIRST_WAIT_S: Final = 0.05
_FIRST_LOST_WAIT_S: Final = 0.25
_MOST_WAIT_S: Final = 1.0
_FIRST_STORE_WAIT_S: Final = 0.5
_MOST_STORE_WAIT_S: Final = 30.0
"""Summed: a store that stays away longer is waited for without the picture."""


async def try_again(call: Callable[[], Awaitable[T]], *, waits_for_room: bool = False) -> T:
    """Await a call until it succeeds, fails for good, or has been tried often enough.

    Args:
        call: What is awaited anew each time.
        waits_for_room: Ask a full pool until there is room, for as long as the caller allows.

    Raises:
        PoisonedRequestError: If two replicas were lost with it.
        ReplicaFullError: If no replica had room, several times over.
    """
    num_lost = num_full = 0
    while True:
        try:
            return await call()
        except (ReplicaLostError, ReplicaFailedError, CancelledError) as exc:
            num_lost += 1
            record(RETRIES, reason="lost")
            if num_lost >= MAX_LOST:
                raise PoisonedRequestError("two replicas were lost with this request") from exc
            # What took the one replica, a node say, may be about to take the next.
            await _wait_about(_FIRST_LOST_WAIT_S * 2**num_lost)
        except ReplicaFullError:
            num_full += 1
            record(RETRIES, reason="full")
            if num_full >= MAX_FULL and not waits_for_room:
                raise
            await _wait_about(_FIRST_WAIT_S * 2**num_full)


async def _wait_about(seconds: float) -> None:
    """Wait a while: those that were turned away together do not come again together."""
    await asyncio.sleep(random.uniform(0.5, 1.0) * min(seconds, _MOST_WAIT_S))


async def outwait_store(put: Callable[[], Awaitable[T]], *, seconds_left: float) -> T:
    """Await a store until it takes a file, with growing waits while the time lasts.

    Raises:
        StoreUnavailableError: If another wait, and a try as long as the last one, take too long.
    """
    started = time.monotonic()
    wait_s = _FIRST_STORE_WAIT_S
    while True:
        tried = time.monotonic()
        try:
            return await put()
        except StoreUnavailableError:
            failed = time.monotonic()
            needed_s = failed - started + wait_s + failed - tried
            if needed_s > min(seconds_left, _MOST_STORE_WAIT_S):
                raise
        await asyncio.sleep(wait_s)
        wait_s *= 2
