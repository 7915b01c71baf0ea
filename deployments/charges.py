"""Charges that end as they should, though their callers leave and Redis answers late."""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, TypeVar

from deployments.errors import DeadlineExceededError, DependencyError, UnmeetableDeadlineError
from deployments.keys import Caller
from deployments.log import logger
from deployments.quota_stores import QuotaStore
from deployments.quotas import QuotaDecision
from pipeline.errors import DeadlineError

T = TypeVar("T")

_PAUSES_S: Final = (1.0, 4.0, 16.0)
"""Between the tries to give a call back while the count is away."""


@dataclass(frozen=True)
class CallCharge:
    """What a call costs, and whom."""

    caller: Caller
    units: float
    call_id: str
    is_handed_over: bool = False
    """Whether a call that is cancelled goes on elsewhere, where it is charged anew."""

    def refund(self, exc: BaseException | None) -> float:
        """Return the units that a call gets back which ended so.

        A call that the service refuses or fails is given back. One that is too late for its own
        `timeout_s`, or whose caller went away, is not: the work was done.
        """
        if isinstance(exc, asyncio.CancelledError):
            return self.units if self.is_handed_over else 0.0
        if isinstance(exc, DeadlineExceededError | DeadlineError):
            return self.units if isinstance(exc, UnmeetableDeadlineError) else 0.0
        return self.units if isinstance(exc, Exception) else 0.0


class Charges:
    """Books charges and gives them back, in tasks that no caller cancels by leaving."""

    def __init__(self, quotas: QuotaStore, *, pauses_s: Sequence[float] = _PAUSES_S) -> None:
        self._quotas = quotas
        self._pauses_s = pauses_s
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retries: set[asyncio.Task[Any]] = set()

    async def book(self, charge: CallCharge, *, lease_s: float) -> QuotaDecision:
        """Charge a call; one whose caller does not learn the outcome is given back.

        Raises:
            DependencyError: If the count cannot be reached.
        """
        booking = _start(
            self._tasks,
            self._quotas.charge(
                charge.caller.key_id,
                charge.caller.quota,
                charge.units,
                call_id=charge.call_id,
                lease_s=lease_s,
            ),
        )
        try:
            await asyncio.wait([booking])
            return booking.result()
        except BaseException:
            _start(self._tasks, self._undo(booking, charge))
            raise

    def hold(self, charge: CallCharge) -> "HeldCharge":
        """Return what is entered while a call that was let in goes on."""
        return HeldCharge(self, charge)

    async def finish(self, charge: CallCharge, units: float) -> None:
        """Free the call's place and give units back; tried again behind it if that fails."""
        await asyncio.wait([_start(self._tasks, self._finish(charge, units))])

    async def run(self) -> None:
        """Wait to be cancelled; then let what was begun end, and the count go."""
        try:
            await asyncio.Event().wait()
        finally:
            while self._tasks:
                await asyncio.wait(self._tasks)
            for retry in self._retries:
                retry.cancel()
            await self._quotas.close()

    async def _undo(self, booking: asyncio.Task[QuotaDecision], charge: CallCharge) -> None:
        await asyncio.gather(booking, return_exceptions=True)
        await self._finish(charge, charge.units)

    async def _finish(self, charge: CallCharge, units: float) -> None:
        if not await self._try_finish(charge, units):
            _start(self._retries, self._retry_finish(charge, units))

    async def _retry_finish(self, charge: CallCharge, units: float) -> None:
        for pause_s in self._pauses_s:
            await asyncio.sleep(pause_s)
            if await self._try_finish(charge, units):
                return
        logger.error("call %s could not be given back; its lease frees its place", charge.call_id)

    async def _try_finish(self, charge: CallCharge, units: float) -> bool:
        caller = charge.caller
        with contextlib.suppress(DependencyError):
            await self._quotas.finish(caller.key_id, caller.quota, units, call_id=charge.call_id)
            return True
        return False


class HeldCharge:
    """Holds one of the key's places for as long as its call runs."""

    def __init__(self, charges: Charges, charge: CallCharge) -> None:
        self._charges = charges
        self._charge = charge

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._charges.finish(self._charge, self._charge.refund(exc))


def _start(tasks: set[asyncio.Task[Any]], work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task
