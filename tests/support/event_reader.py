"""A client of streamed calls that costs little, so that many run beside what they measure."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

PATH = "/v1/images/generations"


@dataclass(frozen=True)
class ReceivedEvent:
    """One event, and when its last byte was here."""

    name: str
    data: bytes
    received_s: float
    """By the clock that processes share."""
    received_at: float
    """Unix seconds."""

    def without_picture(self) -> "ReceivedEvent":
        """Return it without its base64, which would fill the memory of who keeps many."""
        start = self.data.find(b'"b64_json":"')
        if start < 0:
            return self
        start += len(b'"b64_json":"')
        end = self.data.index(b'"', start)
        return replace(self, data=self.data[:start] + self.data[end:])

    def fields(self) -> dict[str, Any]:
        """Return what it says."""
        return dict(json.loads(self.data))


class StreamRefusedError(Exception):
    """The call was answered by something else than a stream."""


async def read_events(port: int, body: dict[str, Any]) -> AsyncIterator[ReceivedEvent]:
    """Make one streamed call and yield its events as they come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**17)
    try:
        writer.write(_to_request(body))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise StreamRefusedError((head + await reader.read(2**12)).decode(errors="replace"))
        pending = bytearray()
        async for chunk in _read_chunks(reader):
            pending += chunk
            while pending.endswith(b"\n\n") or b"\n\n" in chunk:
                text, separator, rest = bytes(pending).partition(b"\n\n")
                if not separator:
                    break
                pending = bytearray(rest)
                if not text.startswith(b":"):
                    yield _to_event(text)
    finally:
        writer.close()


async def _read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readline(), 16):
        yield (await reader.readexactly(size + 2))[:-2]


def _to_request(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + content


def _to_event(text: bytes) -> ReceivedEvent:
    name, _, data = text.partition(b"\n")
    return ReceivedEvent(
        name.removeprefix(b"event: ").decode(),
        data.removeprefix(b"data: "),
        time.monotonic(),
        time.time(),
    )
