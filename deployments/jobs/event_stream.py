"""A job's events as server-sent events, from wherever a reader left off."""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from typing import Final

from cluster.jobs.job import Job
from deployments.errors import InvalidFieldError
from deployments.jobs.descriptions import to_body
from deployments.jobs.service import JobService

LAST_EVENT_ID: Final = "last-event-id"
HEARTBEAT_S: Final = 10.0
MAX_STREAM_S: Final = 150.0
"""A reader comes back with the last event's id; until then it leaves its place to other calls.
Less than the 180 s after which gateways cut an answer, which would be an error to its reader."""
_NUMBER: Final = re.compile(r"[0-9]{1,12}")


def parse_last_event_id(text: str | None) -> int:
    """Return the number of the last event that a reader has; 0 for none.

    Raises:
        InvalidFieldError: If it is no number of an event.
    """
    if not text:
        return 0
    if not _NUMBER.fullmatch(text):
        raise InvalidFieldError(
            f"{LAST_EVENT_ID} must be the id of an event, got {text[:32]!r}", LAST_EVENT_ID
        )
    return int(text)


async def has_ended(service: JobService, job: Job, *, after: int) -> bool:
    """Say whether a reader that has the event `after` has the last one."""
    if not job.status.is_final:
        return False
    job, events = await service.read_with_events(job.id, after=0)
    return after > (events[-1].number if events else 0)


async def stream_events(
    service: JobService, id: str, *, after: int, poll_s: float
) -> AsyncGenerator[bytes, None]:
    """Yield the job's events until its end, which is the last of them, or for `MAX_STREAM_S`."""
    sent = started = time.monotonic()
    while time.monotonic() - started < MAX_STREAM_S:
        job, events = await service.read_with_events(id, after=after)
        for event in events:
            after = event.number
            yield _frame(event.number, json.loads(event.body)["type"], event.body)
            sent = time.monotonic()
        if job.status.is_final:
            body = to_body(job).model_dump_json(exclude_none=True)
            yield _frame(after + 1, f"job.{job.status.value}", body)
            return
        if time.monotonic() - sent >= HEARTBEAT_S:
            yield b": still there\n\n"
            sent = time.monotonic()
        await asyncio.sleep(poll_s)


def _frame(number: int, type: str, body: str) -> bytes:
    return f"id: {number}\nevent: {type}\ndata: {body}\n\n".encode()
