"""A router counts the calls that it has not answered, and a service that stops waits for them."""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import pytest
from answering_server import answer_by
from s3_server import draw_free_ports
from starlette.types import Message, Receive, Scope, Send

from deployments.call_count import CallCount, CallCountMiddleware
from deployments.commands.draining import drain_calls


async def _receive() -> Message:
    return {"type": "http.request"}


async def _send(message: Message) -> None:
    pass


@pytest.mark.parametrize(("method", "num_open"), [("POST", 1), ("DELETE", 1), ("GET", 0)])
async def test_a_call_counts_until_it_is_answered(method: str, num_open: int) -> None:
    is_answered = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await is_answered.wait()

    count = CallCount()
    calls = CallCountMiddleware(app, count)
    call = asyncio.create_task(calls({"type": "http", "method": method}, _receive, _send))
    await asyncio.sleep(0)
    assert count.num_open == num_open
    is_answered.set()
    await call
    assert count.num_open == 0


async def test_a_call_that_fails_or_is_cut_off_counts_no_more() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ConnectionError

    count = CallCount()
    calls = CallCountMiddleware(app, count)
    with pytest.raises(ConnectionError):
        await calls({"type": "http", "method": "POST"}, _receive, _send)
    assert count.num_open == 0


class Routers(BaseHTTPRequestHandler):
    """Tells the counts of several routers in turn."""

    told: ClassVar[list[str]] = []
    num_asked = 0

    def do_GET(self) -> None:
        cls = type(self)
        body = cls.told[min(cls.num_asked, len(cls.told) - 1)].encode()
        cls.num_asked += 1
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Routers.num_asked = 0
    with answer_by(Routers) as url:
        yield url


QUIET, BUSY = '{"status":"ok","open_calls":0}', '{"status":"ok","open_calls":2}'


@pytest.mark.parametrize(
    ("told", "num_routers", "num_asked"),
    [
        pytest.param([QUIET], 1, 1, id="one is quiet"),
        pytest.param([BUSY, BUSY, QUIET], 1, 3, id="one becomes quiet"),
        pytest.param([QUIET, BUSY, QUIET], 2, 10, id="one of two is busy at first"),
        pytest.param(["{}"], 1, 1, id="another program answers"),
    ],
)
def test_a_service_is_drained_when_no_router_has_a_call(
    url: str, told: list[str], num_routers: int, num_asked: int
) -> None:
    Routers.told[:] = told
    drain_calls(url, num_routers=num_routers, within_s=60.0, is_urged=lambda: False)
    assert Routers.num_asked == num_asked


def test_a_second_signal_ends_the_wait(url: str) -> None:
    Routers.told[:] = [BUSY]
    drain_calls(url, num_routers=1, within_s=60.0, is_urged=lambda: Routers.num_asked == 3)
    assert Routers.num_asked == 3


def test_calls_have_a_time_to_finish(url: str) -> None:
    Routers.told[:] = [BUSY]
    drain_calls(url, num_routers=1, within_s=0.3, is_urged=lambda: False)
    assert Routers.num_asked >= 1


def test_a_service_that_does_not_answer_has_nothing_to_finish() -> None:
    [port] = draw_free_ports(1)
    drain_calls(f"http://127.0.0.1:{port}", num_routers=1, within_s=60.0, is_urged=lambda: False)
