"""What a router waits for before it takes calls."""

import asyncio
from pathlib import Path

from caller_api import SMALL, open_client
from fakes import SteppedStages
from local_service import build_api_over, local_config

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


async def test_a_service_that_stops_is_ready_no_more() -> None:
    stages = SteppedStages()
    readiness = Readiness(stages, ("big",), timeout_s=60, holds_start=True)
    before = readiness.status
    stages.allow(1)
    await readiness.start()
    drawn = readiness.status

    readiness.stop()

    assert (before, drawn, readiness.status) == ("starting", "ready", "stopping")


async def test_both_probes_tell_of_calls_that_are_not_answered(
    tiny_model: Path, tmp_path: Path
) -> None:
    stages = SteppedStages()
    async with open_client(build_api_over(local_config(tiny_model, tmp_path), stages)) as client:
        call = asyncio.create_task(client.post("/v1/images/generations", json=SMALL))
        await stages.is_entered.wait()
        open_calls = [
            (await client.get(path)).json()["open_calls"] for path in ("/healthz", "/readyz")
        ]
        stages.allow(1)
        await call

    assert open_calls == [1, 1]
