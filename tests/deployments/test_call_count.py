"""A router counts the calls that it has not answered, whichever way they end."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.call_count import CallCountMiddleware


async def _receive() -> Message:
    return {"type": "http.request"}


async def _send(message: Message) -> None:
    pass


@pytest.mark.parametrize(("method", "num_open"), [("POST", 1), ("DELETE", 1), ("GET", 0)])
async def test_a_call_counts_until_it_is_answered(method: str, num_open: int) -> None:
    is_answered = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await is_answered.wait()

    calls = CallCountMiddleware(app)
    call = asyncio.create_task(calls({"type": "http", "method": method}, _receive, _send))
    await asyncio.sleep(0)
    assert calls.num_open == num_open
    is_answered.set()
    await call
    assert calls.num_open == 0


async def test_a_call_that_fails_or_is_cut_off_counts_no_more() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ConnectionError

    calls = CallCountMiddleware(app)
    with pytest.raises(ConnectionError):
        await calls({"type": "http", "method": "POST"}, _receive, _send)
    assert calls.num_open == 0
