"""Lost work is done again once; what takes two replicas with it is not."""

import asyncio
from types import SimpleNamespace

import pytest

from cluster.errors import StoreConfigurationError, StoreError, StoreUnavailableError
from deployments import retries
from deployments.errors import PoisonedRequestError, ReplicaLostError
from deployments.retries import MAX_FULL, outwait_store, try_again
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


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is waited for; the clock goes on by that and by nothing else."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", note)
    monkeypatch.setattr(retries, "time", SimpleNamespace(monotonic=lambda: sum(waits)))
    return waits


async def test_who_may_wait_for_room_gets_it(waits: list[float]) -> None:
    call = Failing(*[ReplicaFullError("full")] * 20)

    assert await try_again(call, waits_for_room=True) == "done"
    assert len(waits) == 20
    assert max(waits) <= 1.0
    assert len(set(waits)) > 10


async def test_a_lost_replica_is_not_followed_by_the_next_at_once(waits: list[float]) -> None:
    assert await try_again(Failing(ReplicaLostError("gone"))) == "done"
    assert 0.25 <= sum(waits) <= 1.0


async def test_a_callers_mistake_is_not_tried_again() -> None:
    call = Failing(InvalidRequestError("prompt must be shorter"))

    with pytest.raises(InvalidRequestError):
        await try_again(call)

    assert call.num_calls == 1


async def test_a_store_that_comes_back_gets_the_file_at_hand(waits: list[float]) -> None:
    put = Failing(*[StoreUnavailableError("away")] * 4)

    assert await outwait_store(put, seconds_left=600.0) == "done"
    assert waits == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("error", "seconds_left", "expected"),
    [
        (StoreUnavailableError("away"), 600.0, [0.5, 1.0, 2.0, 4.0, 8.0]),
        (StoreUnavailableError("away"), 4.0, [0.5, 1.0, 2.0]),
        (StoreUnavailableError("away"), 0.0, []),
        (StoreConfigurationError("refused"), 600.0, []),
    ],
)
async def test_a_store_is_waited_for_while_the_time_lasts_and_waiting_may_help(
    waits: list[float], error: StoreError, seconds_left: float, expected: list[float]
) -> None:
    with pytest.raises(type(error)):
        await outwait_store(Failing(*[error] * 9), seconds_left=seconds_left)

    assert waits == expected
