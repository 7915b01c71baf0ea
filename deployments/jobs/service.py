"""What callers may do with jobs. No HTTP: the routes are in `api.py`."""

import re
import secrets
from dataclasses import dataclass
from typing import Final

from cluster.errors import JobFinishedError, PayloadsFullError
from cluster.jobs.job import Job, JobKind, Lane
from cluster.jobs.job_store import JobStore
from cluster.records import Event
from cluster.spans import Carrier
from deployments.errors import (
    RETRY_AFTER_S,
    BodyTooLargeError,
    JobConflictError,
    NotFoundError,
    OverloadedError,
    QuotaExceededError,
)
from deployments.jobs.estimates import Estimate
from deployments.jobs.orders import JobItem, write_items
from deployments.jobs.runner import JobRunner
from deployments.keys import ANONYMOUS
from deployments.store_threads import StoreThreads
from pipeline.request import Priority

_JOB_ID: Final = re.compile(r"job-[0-9a-f]{24}")


@dataclass(frozen=True)
class NewJob:
    """What a caller wants drawn later."""

    owner: str
    request_id: str
    kind: JobKind
    items: list[JobItem]
    timeout_s: float
    webhook_url: str | None
    nonce: str
    """Makes the id: the same one, given twice, is one job."""
    trace: Carrier
    """Of the call, for the spans of its pictures."""


@dataclass(frozen=True)
class QueuedJob:
    """A job that was accepted."""

    job: Job
    num_ahead: int
    """Those of its lane whose turn is before its own."""


@dataclass(frozen=True)
class QueueLimits:
    """What may wait."""

    max_queued: int
    """Jobs, by lane."""
    max_queued_per_key: int
    """Of these, those of one key."""
    max_queued_bytes: int
    """Requests of all jobs that have not ended."""


@dataclass(frozen=True)
class JobService:
    """Accepts, shows and cancels jobs; an owner sees only its own."""

    store: JobStore
    threads: StoreThreads
    runner: JobRunner
    estimate: Estimate
    limits: QueueLimits

    async def accept(self, new: NewJob) -> QueuedJob:
        """Queue a job; it is kept when this returns.

        Raises:
            OverloadedError: If too many are queued, or too many bytes.
            QuotaExceededError: If too many of its owner are.
            BodyTooLargeError: If its own bytes are too many.
        """
        estimate_s = sum(self.estimate(item.order) for item in new.items)
        # One visit to a thread for all of it: each costs a wait where the cores are busy.
        queued = await self.threads.call(self._queue, new, estimate_s)
        self.runner.wake(queued.job.lane)
        return queued

    def _queue(self, new: NewJob, estimate_s: float) -> QueuedJob:
        lane = Lane(_priority_of(new).value)
        self._check_room(new.owner, lane)
        now = self.store.records.now()
        turn_at = self.store.next_turn(new.owner, lane, now)
        num_ahead = self.store.count_queued(lane, before=turn_at)
        job = Job(
            id=_to_id(new.nonce),
            owner=new.owner,
            request_id=new.request_id,
            kind=new.kind,
            lane=lane,
            num_items=len(new.items),
            created_at=now,
            deadline_at=now + new.timeout_s,
            estimate_s=estimate_s,
            turn_at=turn_at,
            webhook_url=new.webhook_url,
            trace=new.trace,
        )
        return QueuedJob(self._keep(job, write_items(new.items)), num_ahead)

    def _check_room(self, owner: str, lane: Lane) -> None:
        num_queued = self.store.count_queued(lane) + self.store.count_waiting(lane)
        if num_queued >= self.limits.max_queued:
            raise OverloadedError("too many jobs are queued", None, RETRY_AFTER_S)
        most = self.limits.max_queued_per_key
        if owner != ANONYMOUS.key_id and self.store.count_queued_of(owner, lane) >= most:
            raise QuotaExceededError(
                f"a key may have {most} {lane.value} jobs queued at once", None, RETRY_AFTER_S
            )

    def _keep(self, job: Job, payload: str) -> Job:
        most = self.limits.max_queued_bytes
        if len(payload.encode()) > most:
            raise BodyTooLargeError(f"a job's requests must take at most {most} bytes when kept")
        try:
            return self.store.accept(job, payload, max_payload_bytes=most)
        except PayloadsFullError as exc:
            message = "the jobs that are queued take too many bytes"
            raise OverloadedError(message, None, RETRY_AFTER_S) from exc

    async def find(self, nonce: str) -> str | None:
        """Return the id of the job that was accepted from a nonce, if one was."""
        id = _to_id(nonce)
        record = await self.threads.call(self.store.records.read, id)
        return None if record is None else id

    async def read(self, id: str, owner: str, *, param: str = "id") -> Job:
        """Return a job.

        Raises:
            NotFoundError: If there is none, or it is another owner's.
        """
        if not _JOB_ID.fullmatch(id):
            raise NotFoundError("no such job", param)
        job = await self.threads.call(self.store.read, id)
        if job.owner != owner:
            raise NotFoundError("no such job", param)
        return job

    async def cancel(self, id: str, owner: str) -> Job:
        """End a job; what runs lets go at its next step.

        Raises:
            NotFoundError: If there is none, or it is another owner's.
            JobConflictError: If it has succeeded or failed.
        """
        await self.read(id, owner)
        try:
            job = await self.threads.call(self.store.cancel, id)
        except JobFinishedError as exc:
            raise JobConflictError(str(exc), "id") from exc
        self.runner.drop(id)
        return job

    async def list_of(self, owner: str, *, after: str | None, limit: int) -> list[Job]:
        """Return an owner's jobs, the latest first.

        Raises:
            NotFoundError: If `after` is none of the owner's jobs.
        """
        if after is not None:
            await self.read(after, owner, param="after")
        return await self.threads.call(self.store.list_of, owner, after=after, limit=limit)

    async def read_with_events(self, id: str, *, after: int) -> tuple[Job, list[Event]]:
        """Return a job and its later events; all of them, if the job is final."""
        job = await self.threads.call(self.store.read, id)
        return job, await self.threads.call(self.store.read_events, id, after=after)


def draw_nonce() -> str:
    """Draw what makes a job's id."""
    return secrets.token_hex(12)


def _to_id(nonce: str) -> str:
    return f"job-{nonce}"


def _priority_of(new: NewJob) -> Priority:
    return Priority.BATCH if new.kind is JobKind.BATCH else new.items[0].order.priority
