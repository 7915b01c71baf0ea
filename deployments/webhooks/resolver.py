"""Asks for the addresses of receivers' names on threads that nothing else waits for."""

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from deployments.webhooks.targets import IPAddress

LookUp = Callable[[str, int], list[IPAddress]]
_NUM_THREADS: Final = 4
_FAILURE_KEPT_S: Final = 30.0


class HostResolver:
    """Looks names up, each once at a time; for a while a name that failed is not asked again.

    A look-up blocks for as long as a name server is silent, whoever has stopped waiting for it:
    one name never has more than one of the threads.
    """

    def __init__(self, look_up: LookUp | None = None) -> None:
        self._look_up = look_up or look_up_host
        self._executor = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="webhook-names")
        self._running: dict[tuple[str, int], asyncio.Future[list[IPAddress]]] = {}
        self._failed_until_s: dict[tuple[str, int], float] = {}

    async def __call__(self, host: str, port: int) -> list[IPAddress]:
        """Return a host's addresses.

        Raises:
            OSError: If it has none, or had none a moment ago.
            UnicodeError: If it cannot be a name.
        """
        place = (host, port)
        if time.monotonic() < self._failed_until_s.get(place, 0.0):
            raise OSError("the name had no address a moment ago")
        if place not in self._running:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._executor, self._look_up, host, port)
            self._running[place] = running
            running.add_done_callback(partial(self._end, place))
        return await asyncio.shield(self._running[place])

    def stop(self) -> None:
        """Let the threads go when their look-ups are done."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _end(self, place: tuple[str, int], ended: asyncio.Future[Any]) -> None:
        del self._running[place]
        if not ended.cancelled() and ended.exception() is not None:
            self._failed_until_s[place] = time.monotonic() + _FAILURE_KEPT_S


def look_up_host(host: str, port: int) -> list[IPAddress]:
    """Ask the machine's resolver, for as long as it takes.

    Raises:
        OSError: If there is no such host.
        UnicodeError: If there cannot be one.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]
