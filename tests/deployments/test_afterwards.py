"""What a call leaves to be done when its answer is on its way."""

import asyncio
from contextvars import ContextVar
from functools import partial

import pytest

from deployments.afterwards import Afterwards

NEVER_S = 3600.0
CALL: ContextVar[str] = ContextVar("CALL")


async def test_it_is_done_later_in_the_context_of_its_call() -> None:
    done: asyncio.Queue[str] = asyncio.Queue()
    afterwards = Afterwards()
    CALL.set("first")

    afterwards.add(lambda: done.put_nowait(CALL.get()))
    is_done_at_once = not done.empty()
    CALL.set("second")

    assert not is_done_at_once
    assert await done.get() == "first"


async def test_a_stopping_router_leaves_nothing_undone() -> None:
    done: list[int] = []
    afterwards = Afterwards(after_s=NEVER_S)
    runs = asyncio.create_task(afterwards.run())
    for number in range(3):
        afterwards.add(lambda number=number: done.append(number))  # type: ignore[misc]
    await asyncio.sleep(0)

    runs.cancel()
    await asyncio.wait([runs])

    assert done == [0, 1, 2]


async def test_what_was_done_is_not_done_again_at_the_end() -> None:
    done: asyncio.Queue[int] = asyncio.Queue()
    afterwards = Afterwards(after_s=0.0)
    afterwards.add(lambda: done.put_nowait(1))
    await done.get()

    afterwards.run_all()

    assert done.empty()


async def test_whatever_else_the_loop_has_to_do_comes_between_and_later_calls_wait() -> None:
    done: list[str] = []
    afterwards = Afterwards(after_s=0.05)

    def act(name: str) -> None:
        done.append(name)
        if name == "first":
            afterwards.add(lambda: done.append("added meanwhile"))
            asyncio.get_running_loop().call_soon(lambda: done.append("of the loop"))

    for name in ("first", "second", "third"):
        afterwards.add(partial(act, name))
    while "third" not in done:
        await asyncio.sleep(0)
    at_once = list(done)
    while "added meanwhile" not in done:
        await asyncio.sleep(0.001)

    assert "added meanwhile" not in at_once
    assert at_once.index("of the loop") < at_once.index("third")
    assert [name for name in at_once if name != "of the loop"] == ["first", "second", "third"]


@pytest.mark.parametrize("stops", [False, True])
async def test_an_error_keeps_none_of_the_others_from_running(stops: bool) -> None:
    done: asyncio.Queue[int] = asyncio.Queue()
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: errors.append(context["exception"])
    )
    afterwards = Afterwards(after_s=NEVER_S if stops else 0.0)

    def fail() -> None:
        raise ValueError("of a meter")

    afterwards.add(fail)
    afterwards.add(lambda: done.put_nowait(1))
    if stops:
        afterwards.run_all()

    assert await done.get() == 1
    assert [str(error) for error in errors] == ["of a meter"]


async def test_what_is_added_while_the_rest_is_run_is_run_too() -> None:
    done: list[int] = []
    afterwards = Afterwards(after_s=0.001)
    afterwards.add(lambda: afterwards.add(lambda: done.append(1)))

    afterwards.run_all()
    await asyncio.sleep(0.01)

    assert done == [1]
