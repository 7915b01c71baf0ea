"""Both stores count alike: in the process, and in a real Redis."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis_failover import run_pair
from redis_server import DURABLE, RedisServer, run_redis

from deployments.errors import DependencyError
from deployments.quota_stores import MemoryQuotaStore, QuotaStore, RedisQuotaStore
from deployments.quotas import QuotaLimits, QuotaUse

LIMITS = QuotaLimits(units_per_minute=60.0, units_per_day=1000.0)
ALONE = QuotaLimits(max_concurrent_requests=1)


@pytest.fixture(params=["memory", "redis"])
async def store(
    request: pytest.FixtureRequest, redis_server: RedisServer
) -> AsyncIterator[QuotaStore]:
    namespace = f"test-{secrets.token_hex(4)}"
    redis_store = RedisQuotaStore(redis_server.url, namespace=namespace)
    stores: dict[str, QuotaStore] = {"memory": MemoryQuotaStore(), "redis": redis_store}
    yield stores[request.param]
    await redis_store.close()


async def admit(
    store: QuotaStore, units: float, limits: QuotaLimits = LIMITS, *, lease_s: float = 60.0
) -> str | None:
    """Charge one call; returns why it was refused."""
    call_id = secrets.token_hex(4)
    return (await store.charge("alice", limits, units, call_id=call_id, lease_s=lease_s)).refused


async def use_of(store: QuotaStore, limits: QuotaLimits = LIMITS) -> QuotaUse:
    """Ask by a call that costs nothing."""
    return (await store.charge("alice", limits, 0.0, call_id="none", lease_s=0.0)).use


class Decay:
    """How much of a key's use has gone since a moment, however slow the machine is."""

    def __init__(self, limits: QuotaLimits = LIMITS) -> None:
        self._per_s = (limits.units_per_minute or 0.0) / 60.0
        self._begun_s = time.monotonic()

    def leaves(self, units: float, of: float) -> bool:
        """Say whether as many units are left as may be of what was charged."""
        gone = self._per_s * (time.monotonic() - self._begun_s)
        return of - gone - 1e-3 <= units <= of + 1e-3


async def test_calls_are_let_in_until_the_minute_is_used_up(store: QuotaStore) -> None:
    refusals = [await admit(store, 25.0) for _ in range(3)]

    assert refusals == [None, None, "minute"]


async def test_a_refused_call_is_told_when_it_fits(store: QuotaStore) -> None:
    decay = Decay()
    await admit(store, 60.0)

    decision = await store.charge("alice", LIMITS, 30.0, call_id="late", lease_s=1.0)

    assert decay.leaves(decision.retry_after_s, of=30.0)


async def test_one_callers_use_is_not_anothers(store: QuotaStore) -> None:
    await admit(store, 60.0)

    decision = await store.charge("bob", LIMITS, 60.0, call_id="first", lease_s=1.0)

    assert decision.refused is None


async def test_what_is_given_back_can_be_used_again(store: QuotaStore) -> None:
    await store.charge("alice", LIMITS, 60.0, call_id="failed", lease_s=60.0)
    await store.finish("alice", LIMITS, 60.0, call_id="failed")

    assert await admit(store, 59.0) is None


async def test_a_place_is_free_when_its_call_has_ended(store: QuotaStore) -> None:
    await store.charge("alice", ALONE, 1.0, call_id="one", lease_s=60.0)
    refused = await admit(store, 1.0, ALONE)
    await store.finish("alice", ALONE, 0.0, call_id="one")

    assert (refused, await admit(store, 1.0, ALONE)) == ("concurrency", None)


async def test_the_place_of_a_dead_router_is_freed_in_time(store: QuotaStore) -> None:
    assert await admit(store, 1.0, ALONE, lease_s=0.0) is None
    assert await admit(store, 1.0, ALONE) is None


async def test_calls_that_arrive_at_once_do_not_overdraw(store: QuotaStore) -> None:
    refusals = await asyncio.gather(*(admit(store, 10.0) for _ in range(40)))

    assert refusals.count(None) == 6


async def test_a_call_that_was_not_charged_is_not_given_back(store: QuotaStore) -> None:
    await admit(store, 50.0)
    await store.finish("alice", LIMITS, 50.0, call_id="never")

    assert await admit(store, 50.0) == "minute"


async def test_a_call_is_given_back_once(store: QuotaStore) -> None:
    decay = Decay()
    await admit(store, 30.0)
    await store.charge("alice", LIMITS, 20.0, call_id="failed", lease_s=60.0)
    for _ in range(2):
        await store.finish("alice", LIMITS, 20.0, call_id="failed")

    assert decay.leaves((await use_of(store)).minute_units, of=30.0)


async def test_what_has_decayed_is_not_given_back(store: QuotaStore) -> None:
    fast = QuotaLimits(units_per_minute=6000.0)
    await store.charge("alice", fast, 50.0, call_id="failed", lease_s=60.0)
    async with asyncio.timeout(10.0):
        while (await use_of(store, fast)).minute_units > 0.0:
            await asyncio.sleep(0.02)
    decay = Decay(fast)
    await store.charge("alice", fast, 1000.0, call_id="other", lease_s=60.0)
    await store.finish("alice", fast, 50.0, call_id="failed")

    assert decay.leaves((await use_of(store, fast)).minute_units, of=1000.0)


async def test_a_call_that_runs_is_let_in_again_and_not_charged(store: QuotaStore) -> None:
    both, decay = QuotaLimits(units_per_minute=60.0, max_concurrent_requests=1), Decay()
    decisions = [
        await store.charge("alice", both, 50.0, call_id="once", lease_s=60.0) for _ in range(2)
    ]

    assert [decision.refused for decision in decisions] == [None, None]
    assert [decision.use.num_running for decision in decisions] == [1, 1]
    assert decay.leaves(decisions[1].use.minute_units, of=50.0)


async def test_a_call_that_is_let_in_again_holds_its_place_for_longer(store: QuotaStore) -> None:
    for lease_s in (0.2, 60.0):
        await store.charge("alice", ALONE, 1.0, call_id="once", lease_s=lease_s)
    await asyncio.sleep(0.3)

    assert await admit(store, 1.0, ALONE) == "concurrency"


async def test_a_router_full_of_calls_charges_and_finishes_all_at_once(store: QuotaStore) -> None:
    # A day's window that decays by less than a unit a second for all of them together.
    many = QuotaLimits(units_per_day=300.0, max_concurrent_requests=1000)
    ids = [str(number) for number in range(256)]
    charged = await asyncio.gather(
        *(store.charge("alice", many, 1.0, call_id=id, lease_s=60.0) for id in ids)
    )
    await asyncio.gather(*(store.finish("alice", many, 1.0, call_id=id) for id in ids))

    assert {decision.refused for decision in charged} == {None}
    use = await use_of(store, many)
    assert use.day_units == pytest.approx(0.0, abs=10.0)
    assert use.num_running == 1


async def test_two_routers_count_together_in_redis(redis_server: RedisServer) -> None:
    namespace = f"test-{secrets.token_hex(4)}"
    routers = [RedisQuotaStore(redis_server.url, namespace=namespace) for _ in range(2)]

    refusals = [await admit(router, 40.0) for router in routers]
    for router in routers:
        await router.close()

    assert refusals == [None, "minute"]


async def test_nothing_is_let_in_while_redis_is_away(tmp_path: Path) -> None:
    with run_redis(tmp_path) as server:
        store = RedisQuotaStore(server.url)
        server.kill()
        with pytest.raises(DependencyError, match="quotas could not be counted"):
            await admit(store, 1.0)
        await store.close()


async def test_calls_are_counted_again_after_a_failover(tmp_path: Path) -> None:
    with run_pair(tmp_path, DURABLE) as pair:
        store = RedisQuotaStore(pair.url)
        await admit(store, 1.0)
        pair.fail_over()
        with pytest.raises(DependencyError, match="quotas could not be counted"):
            await admit(store, 1.0)

        assert await admit(store, 1.0) is None
        await store.close()


async def test_a_call_is_given_back_after_a_failover_at_the_second_try(tmp_path: Path) -> None:
    with run_pair(tmp_path, DURABLE) as pair:
        store = RedisQuotaStore(pair.url)
        await store.charge("alice", LIMITS, 1.0, call_id="one", lease_s=60.0)
        pair.fail_over()
        with pytest.raises(DependencyError, match="quotas could not be counted"):
            await store.finish("alice", LIMITS, 1.0, call_id="one")
        await store.finish("alice", LIMITS, 1.0, call_id="one")

        assert (await use_of(store)).minute_units == 0.0
        await store.close()
