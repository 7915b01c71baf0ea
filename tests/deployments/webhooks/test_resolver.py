"""A silent name server holds up nothing but the names that it has."""

import asyncio
import ipaddress
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from deployments.webhooks.resolver import HostResolver, look_up_host
from deployments.webhooks.targets import IPAddress

PUBLIC = ipaddress.ip_address("8.8.8.8")


class NameServer:
    """Answers nobody who asks for a silent name until it is let go."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.let_go = threading.Event()
        self._error = error

    def __call__(self, host: str, port: int) -> list[IPAddress]:
        self.asked.append(host)
        if host.startswith("silent"):
            self.let_go.wait(30.0)
        if self._error is not None:
            raise self._error
        return [PUBLIC]


@asynccontextmanager
async def run_resolver(
    look_up: Callable[[str, int], list[IPAddress]],
) -> AsyncIterator[HostResolver]:
    resolver = HostResolver(look_up)
    try:
        yield resolver
    finally:
        resolver.stop()


async def give_up_soon(resolver: HostResolver, host: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await resolver(host, 443)


async def test_a_silent_name_server_holds_up_no_other_name_and_no_other_work() -> None:
    server = NameServer()
    async with run_resolver(server) as resolver:
        for _ in range(40):
            await give_up_soon(resolver, "silent.example.com")
        async with asyncio.timeout(10.0):
            await asyncio.to_thread(int)
            assert await resolver("quick.example.com", 443) == [PUBLIC]
        server.let_go.set()

    assert server.asked == ["silent.example.com", "quick.example.com"]


async def test_a_look_up_that_comes_late_serves_whoever_waits_by_then() -> None:
    server = NameServer()
    async with run_resolver(server) as resolver:
        await give_up_soon(resolver, "silent.example.com")
        second = asyncio.create_task(resolver("silent.example.com", 443))
        await asyncio.sleep(0)
        server.let_go.set()
        assert await second == [PUBLIC]

    assert server.asked == ["silent.example.com"]


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("label too long")])
async def test_a_failed_name_is_not_asked_again_at_once(error: Exception) -> None:
    server = NameServer(error=error)
    async with run_resolver(server) as resolver:
        with pytest.raises(type(error), match=str(error)):
            await resolver("gone.example.com", 443)
        with pytest.raises(OSError, match="a moment ago"):
            await resolver("gone.example.com", 443)

    assert server.asked == ["gone.example.com"]


async def test_the_machines_resolver_gives_addresses() -> None:
    async with run_resolver(look_up_host) as resolver:
        assert ipaddress.ip_address("127.0.0.1") in await resolver("localhost", 80)
