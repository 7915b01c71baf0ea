"""When a job lets go of its place in a runner: nothing is left of it but to wait for room."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Wait:
    """What a job comes to that is to be tried again later, and holds nothing until then."""

    seconds: float
    is_blameless: bool = True
    """Whether no drawing was begun in vain, so that no attempt is counted."""


class RoomWait:
    """The requests of a job that pools refuse, until all that are left have been refused."""

    def __init__(self, num_left: int) -> None:
        self._num_left = num_left
        self._num_waiting = 0
        self._given_up = asyncio.Event()
        self.wait_s = 0.0
        """Asked for by the last refusal."""

    @property
    def is_given_up(self) -> bool:
        """Whether the job is to be put back."""
        return self._given_up.is_set()

    def leave(self) -> None:
        """Note that a request has its outcome."""
        self._num_left -= 1
        self._judge()

    async def sleep(self, seconds: float) -> None:
        """Wait after a refusal; return before the time if the job is given up."""
        self.wait_s = seconds
        self._num_waiting += 1
        self._judge()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._given_up.wait()
        self._num_waiting -= 1

    def _judge(self) -> None:
        if 0 < self._num_left == self._num_waiting:
            self._given_up.set()
