"""A charge ends as it should, whenever its caller leaves and whatever the count answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from deployments.charges import CallCharge, Charges
from deployments.errors import DeadlineExceededError, DependencyError, UnmeetableDeadlineError
from deployments.keys import Caller
from deployments.quota_stores import MemoryQuotaStore
from deployments.quotas import QuotaDecision, QuotaLimits, QuotaUse

LIMITS = QuotaLimits(units_per_day=100.0, max_concurrent_requests=1)
CALL = CallCharge(Caller("alice", quota=LIMITS), 60.0, "call")
ONCE = CallCharge(CALL.caller, CALL.units, "once", is_handed_over=True)
FREE = QuotaUse(day_units=0.0, num_running=1)


class SlowStore(MemoryQuotaStore):
    """Books at once and answers later, or not; what asks for its use is a call of its own."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: 0.0)
        self.answers = asyncio.Event()
        self.answers.set()
        self.num_failures = 0
        self.num_lost_answers = 0
        self.is_closed = False

    async def charge(
        self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str, lease_s: float
    ) -> QuotaDecision:
        decision = await super().charge(key_id, limits, units, call_id=call_id, lease_s=lease_s)
        await self.answers.wait()
        if self.num_lost_answers:
            self.num_lost_answers -= 1
            raise DependencyError("quotas could not be counted", None, 5)
        return decision

    async def finish(self, key_id: str, limits: QuotaLimits, units: float, *, call_id: str) -> None:
        await self.answers.wait()
        if self.num_failures:
            self.num_failures -= 1
            raise DependencyError("quotas could not be counted", None, 5)
        await super().finish(key_id, limits, units, call_id=call_id)

    async def close(self) -> None:
        self.is_closed = True

    async def use(self) -> QuotaUse:
        call = super().charge("alice", LIMITS, 0.0, call_id="none", lease_s=0.0)
        return (await call).use


@contextlib.asynccontextmanager
async def running(charges: Charges) -> AsyncIterator[None]:
    """Run until what was begun has ended."""
    run = asyncio.create_task(charges.run())
    await asyncio.sleep(0)
    yield
    run.cancel()
    await asyncio.wait([run])


async def hold(charges: Charges, charge: CallCharge, error: BaseException | None) -> None:
    """Make a call that ends with an error."""
    await charges.book(charge, lease_s=60.0)
    async with charges.hold(charge):
        if error is not None:
            raise error


async def leave(call: "asyncio.Task[object]", store: SlowStore) -> None:
    """Leave a call that waits for the store, which answers after that."""
    await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait([call])
    store.answers.set()


async def test_a_caller_that_leaves_while_it_is_charged_is_charged_nothing() -> None:
    store = SlowStore()
    store.answers.clear()
    charges = Charges(store)
    async with running(charges):
        await leave(asyncio.create_task(charges.book(CALL, lease_s=60.0)), store)

    assert await store.use() == FREE


async def test_a_call_that_is_charged_though_the_answer_is_lost_is_given_back() -> None:
    store = SlowStore()
    store.num_lost_answers = 1
    charges = Charges(store)
    async with running(charges):
        with pytest.raises(DependencyError, match="quotas could not be counted"):
            await charges.book(CALL, lease_s=60.0)

    assert await store.use() == FREE


async def test_a_caller_that_leaves_while_its_call_is_given_back_gets_it_back() -> None:
    store = SlowStore()
    charges = Charges(store)
    async with running(charges):
        await charges.book(CALL, lease_s=60.0)
        store.answers.clear()
        await leave(asyncio.create_task(charges.finish(CALL, CALL.units)), store)

    assert await store.use() == FREE


async def test_a_call_is_given_back_when_the_count_can_be_reached_again() -> None:
    store = SlowStore()
    charges = Charges(store, pauses_s=(0.0, 0.0))
    await charges.book(CALL, lease_s=60.0)
    store.num_failures = 2
    await charges.finish(CALL, CALL.units)
    async with asyncio.timeout(5.0):
        while await store.use() != FREE:
            await asyncio.sleep(0.01)

    assert store.num_failures == 0


async def test_the_count_is_closed_at_the_end_though_calls_wait_to_be_given_back() -> None:
    store = SlowStore()
    store.num_failures = 1
    charges = Charges(store)
    async with running(charges):
        await charges.finish(CALL, CALL.units)

    assert store.is_closed


@pytest.mark.parametrize(
    ("charge", "error", "units"),
    [
        (CALL, None, 60.0),
        (CALL, RuntimeError("failed"), 0.0),
        (CALL, UnmeetableDeadlineError("never", None), 0.0),
        (CALL, DeadlineExceededError("late", None), 60.0),
        (CALL, asyncio.CancelledError(), 60.0),
        (ONCE, asyncio.CancelledError(), 0.0),
    ],
)
async def test_what_is_given_back_depends_on_how_a_call_ended(
    charge: CallCharge, error: BaseException | None, units: float
) -> None:
    store = SlowStore()
    await asyncio.wait([asyncio.create_task(hold(Charges(store), charge, error))])

    assert await store.use() == QuotaUse(day_units=units, num_running=1)
