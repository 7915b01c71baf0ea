"""Lost work is done again once; what takes two replicas with it is not."""

import asyncio

import pytest

from deployments.errors import PoisonedRequestError, ReplicaLostError
from deployments.retries import MAX_FULL, try_again
from pipeline.errors import InvalidRequestError, ReplicaFullError


class Failing:
    """Raises what it was given, one after another, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.num_calls = 0

    async def __call__(self) -> str:
        self.num_calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return "done"


async def test_a_lost_replica_is_replaced_by_another() -> None:
    call = Failing(ReplicaLostError("gone"))

    assert await try_again(call) == "done"
    assert call.num_calls == 2


async def test_a_request_that_takes_two_replicas_fails_alone() -> None:
    with pytest.raises(PoisonedRequestError):
        await try_again(Failing(ReplicaLostError("gone"), ReplicaLostError("gone")))


async def test_a_full_replica_is_asked_again() -> None:
    assert await try_again(Failing(ReplicaFullError("full"))) == "done"


async def test_a_pool_that_stays_full_refuses() -> None:
    call = Failing(*[ReplicaFullError("full")] * 9)

    with pytest.raises(ReplicaFullError):
        await try_again(call)

    assert call.num_calls == MAX_FULL


async def test_who_may_wait_for_room_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", note)
    call = Failing(*[ReplicaFullError("full")] * 20)

    assert await try_again(call, waits_for_room=True) == "done"
    assert len(waits) == 20
    assert max(waits) <= 1.0
    assert len(set(waits)) > 10


async def test_a_callers_mistake_is_not_tried_again() -> None:
    call = Failing(InvalidRequestError("prompt must be shorter"))

    with pytest.raises(InvalidRequestError):
        await try_again(call)

    assert call.num_calls == 1
