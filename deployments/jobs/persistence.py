"""Waiting for a job store that is away for a while."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from cluster.errors import RecordStoreError
from deployments.log import logger

T = TypeVar("T")

_FIRST_DELAY_S: Final = 0.1
_MAX_DELAY_S: Final = 5.0


async def persist(call: Callable[[], Awaitable[T]]) -> T:
    """Try until the store does it, however long that takes: work is done and must be kept.

    One that refuses its password counts as one that is away: while passwords are changed it does.

    Raises:
        LeaseLostError: And all else that the call raises but that the store failed.
    """
    delay_s = _FIRST_DELAY_S
    while True:
        try:
            return await call()
        except RecordStoreError as exc:
            logger.warning("%s; trying again in %.1f s", exc, delay_s)
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, _MAX_DELAY_S)
