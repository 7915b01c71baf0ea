"""What a router waits for before it takes calls."""

import asyncio

from fakes import SteppedStages

from deployments.readiness import Readiness


async def test_a_start_that_is_held_ends_with_the_first_picture() -> None:
    stages = SteppedStages()
    readiness = Readiness(stages, ("big", "small"), timeout_s=60, holds_start=True)
    start = asyncio.create_task(readiness.start())
    await stages.is_entered.wait()
    is_held = not start.done()

    stages.allow(1)
    await start

    assert is_held
    assert sorted(readiness.pools.values()) == [False, True]
    readiness.stop()


async def test_a_start_that_is_not_held_returns_before_a_picture() -> None:
    readiness = Readiness(SteppedStages(), ("big",), timeout_s=60)

    await readiness.start()

    assert readiness.pools == {"big": False}
    readiness.stop()


async def test_a_start_that_is_held_can_be_given_up() -> None:
    stages = SteppedStages()
    readiness = Readiness(stages, ("big",), timeout_s=60, holds_start=True)
    start = asyncio.create_task(readiness.start())
    await stages.is_entered.wait()

    start.cancel()
    await asyncio.wait([start])

    assert start.cancelled()
    await stages.is_closed.wait()
