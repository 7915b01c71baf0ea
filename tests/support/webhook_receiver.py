"""A receiver of webhooks on a real socket."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.datastructures import Headers


@dataclass(frozen=True)
class Received:
    """One request, as it came."""

    path: str
    headers: Headers
    body: bytes


@dataclass
class Receiver:
    """Notes what comes, and answers with the next of its answers; 204 when there are no more."""

    port: int = 0
    answers: list[str] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    arrived: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = Headers(raw=[_split(line) for line in head[1:] if line])
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append(Received(head[0].split(" ")[1], headers, body))
        answer = self.answers.pop(0) if self.answers else "204 No Content"
        writer.write(f"HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        self.arrived.release()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(30.0):
            for _ in range(count):
                await self.arrived.acquire()


def _split(line: str) -> tuple[bytes, bytes]:
    name, value = line.split(": ", 1)
    return name.lower().encode(), value.encode()


@contextlib.asynccontextmanager
async def run_receiver(*answers: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver(answers=list(answers))
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        receiver.port = int(server.sockets[0].getsockname()[1])
        yield receiver
