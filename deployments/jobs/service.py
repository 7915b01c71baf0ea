"""What callers may do with jobs. No HTTP: the routes are in `api.py`."""

import re
import secrets
from dataclasses import dataclass
from typing import Final

from cluster.errors import JobFinishedError
from cluster.jobs.job import Job, JobKind, Lane
from cluster.jobs.job_store import JobStore
from cluster.records import Event
from deployments.errors import (
    RETRY_AFTER_S,
    JobConflictError,
    NotFoundError,
    OverloadedError,
)
from deployments.jobs.estimates import Estimate
from deployments.jobs.orders import JobItem, write_items
from deployments.jobs.runner import JobRunner
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


@dataclass(frozen=True)
class QueuedJob:
    """A job that was accepted."""

    job: Job
    num_ahead: int
    """Those that were queued in its lane before."""


@dataclass(frozen=True)
class JobService:
    """Accepts, shows and cancels jobs; an owner sees only its own."""

    store: JobStore
    threads: StoreThreads
    runner: JobRunner
    estimate: Estimate
    max_queued: int

    async def accept(self, new: NewJob) -> QueuedJob:
        """Queue a job; it is kept when this returns.

        Raises:
            OverloadedError: If too many are queued.
        """
        estimate_s = sum(self.estimate(item.order) for item in new.items)
        # One visit to a thread for all of it: each costs a wait where the cores are busy.
        queued = await self.threads.call(self._queue, new, estimate_s)
        self.runner.wake(queued.job.lane)
        return queued

    def _queue(self, new: NewJob, estimate_s: float) -> QueuedJob:
        lane = Lane(_priority_of(new).value)
        num_ahead = self.store.count_queued(lane)
        if num_ahead >= self.max_queued:
            raise OverloadedError("too many jobs are queued", None, RETRY_AFTER_S)
        now = self.store.records.now()
        job = Job(
            id=f"job-{new.nonce}",
            owner=new.owner,
            request_id=new.request_id,
            kind=new.kind,
            lane=lane,
            num_items=len(new.items),
            created_at=now,
            deadline_at=now + new.timeout_s,
            estimate_s=estimate_s,
            webhook_url=new.webhook_url,
        )
        return QueuedJob(self.store.accept(job, write_items(new.items)), num_ahead)

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


def _priority_of(new: NewJob) -> Priority:
    return Priority.BATCH if new.kind is JobKind.BATCH else new.items[0].order.priority
