"""A queue of jobs with leases: begun at least once, with one visible result."""

import logging
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Final

from cluster.errors import (
    JobFormatError,
    JobNotFoundError,
    LeaseLostError,
    RecordStoreUnavailableError,
)
from cluster.jobs import transitions
from cluster.jobs.job import (
    DEADLINE_INDEX,
    EXPIRY_INDEX,
    WEBHOOK_INDEX,
    Job,
    JobFailure,
    Lane,
    lease_index,
    owner_index,
    queue_index,
    waiting_index,
)
from cluster.jobs.transitions import JobPolicy
from cluster.jobs.unreadable import fail_unreadable
from cluster.records import Event, Record, RecordStore

_logger = logging.getLogger(__name__)

KEPT_EVENTS: Final = 256
_CANDIDATES: Final = 8
_SWEPT: Final = 100
_UNREADABLE_FOR_S: Final = 600.0
_MAX_RACES: Final = 100


class JobStore:
    """Applies transitions to jobs by compare-and-set. Methods block, as the record store's do."""

    def __init__(self, records: RecordStore, policy: JobPolicy) -> None:
        self.records = records
        self.policy = policy

    def accept(self, job: Job, payload: str, *, max_payload_bytes: int | None = None) -> Job:
        """Queue a job. A job that has its id already is returned in its place.

        Raises:
            PayloadsFullError: If the payloads of all jobs that have not ended would exceed that.
        """
        record = _to_record(job, 0)
        if self.records.insert(record, payload=payload, max_payload_bytes=max_payload_bytes):
            return job
        return self.read(job.id)

    def read(self, id: str) -> Job:
        """Return a job.

        Raises:
            JobNotFoundError: If there is none.
        """
        return _to_job(self._record(id))

    def list_of(self, owner: str, *, after: str | None, limit: int) -> list[Job]:
        """Return an owner's jobs, the latest first, from the one that follows `after`.

        Fewer than `limit` are all that there are: those of another version are passed over.
        """
        jobs: list[Job] = []
        num_unreadable = 0
        while (room := limit - len(jobs)) > 0:
            ids = self.records.page(owner_index(owner), after=after, limit=room)
            found = [record for record in map(self.records.read, ids) if record is not None]
            readable = [job for job in map(_read_job, found) if job is not None]
            jobs += readable
            num_unreadable += len(found) - len(readable)
            if len(ids) < room:
                break
            after = ids[-1]
        if num_unreadable:
            _logger.warning("%d jobs of another version were left out of a list", num_unreadable)
        return jobs

    def count_queued(self, lane: Lane, *, before: float = float("inf")) -> int:
        """Count the jobs of a lane that nobody has tried, and whose place is before."""
        return self.records.count(queue_index(lane), below=before)

    def count_queued_of(self, owner: str, lane: Lane) -> int:
        """Count an owner's jobs of a lane that nobody runs."""
        return self.records.count(queue_index(lane, owner), below=float("inf"))

    def next_turn(self, owner: str, lane: Lane, now: float) -> float:
        """Return the turn of an owner's next job."""
        ids = self.records.page(queue_index(lane, owner), after=None, limit=1)
        record = self.records.read(ids[0]) if ids else None
        return transitions.turn_after(None if record is None else _read_job(record), now)

    def count_waiting(self, lane: Lane) -> int:
        """Count the jobs of a lane that wait for room in a pool."""
        return self.records.count(waiting_index(lane), below=float("inf"))

    def claim(self, lane: Lane, *, waiting_first: bool = False) -> Job | None:
        """Give the caller a job, if there is one, under a lease of its own.

        Jobs whose runner fell silent come first. Then come those that wait longest, and those that
        a pool refused once they may be tried again; which of the two, the caller says: by turns,
        neither holds up the other.
        """
        now = self.records.now()
        silent = self._readable_in(lease_index(lane), until=now)
        queued = self._readable_in(queue_index(lane), until=float("inf"))
        waiting = self._readable_in(waiting_index(lane), until=now)
        others = (waiting, queued) if waiting_first else (queued, waiting)
        for record, job in chain(silent, *others):
            if not transitions.is_claimable(job, now):
                continue
            lease = secrets.token_hex(16)
            claimed = transitions.claim(job, lease, now, self.policy)
            is_written = self._replace(claimed, record.version)
            if is_written and claimed.lease == lease:
                return claimed
        return None

    def renew(self, job: Job, *, has_progressed: bool) -> Job:
        """Extend the lease that the caller has.

        Raises:
            LeaseLostError: If it has lost it.
        """
        now = self.records.now()
        return self._change(
            job.id,
            lambda job_now: transitions.renew(
                job_now, job.lease, now, self.policy, has_progressed=has_progressed
            ),
        )

    def has_lease(self, job: Job) -> bool:
        """Say whether the caller still has the job."""
        record = self.records.read(job.id)
        return record is not None and record.guard == job.lease

    def release(self, job: Job) -> Job:
        """Put back a job that the caller cannot finish, for reasons that are not the job's.

        Raises:
            LeaseLostError: If the caller has lost it.
        """
        return self._change(job.id, lambda job_now: transitions.release(job_now, job.lease))

    def put_off(self, job: Job, *, wait_s: float, is_blameless: bool) -> Job:
        """Put back a job that waits for room in a pool; see `transitions.put_off`.

        Raises:
            LeaseLostError: If the caller has lost it.
        """
        until = self.records.now() + wait_s
        return self._change(
            job.id,
            lambda job_now: transitions.put_off(
                job_now, job.lease, until, is_blameless=is_blameless
            ),
        )

    def finish(self, job: Job, failure: JobFailure | None) -> Job:
        """End the job that the caller has.

        Raises:
            LeaseLostError: If the caller has lost it.
        """
        now = self.records.now()
        return self._change(
            job.id,
            lambda job_now: transitions.finish(job_now, job.lease, failure, now, self.policy),
        )

    def cancel(self, id: str) -> Job:
        """End a job at its owner's wish.

        Raises:
            JobNotFoundError: If there is none.
            JobFinishedError: If it has succeeded or failed.
        """
        now = self.records.now()
        return self._change(id, partial(transitions.cancel, now=now, policy=self.policy))

    def read_payload(self, job: Job) -> str:
        """Return what is to be done.

        Raises:
            JobNotFoundError: If the job is gone.
        """
        payload = self.records.read_payload(job.id)
        if payload is None:
            raise JobNotFoundError(f"no job has the id {job.id}")
        return payload

    def put_outcome(self, job: Job, index: int, body: str) -> None:
        """Keep what came of an item; the first outcome of an item stays.

        Raises:
            LeaseLostError: If the caller has lost the job.
        """
        if not self.records.put_outcome(job.id, str(index), body, guard=job.lease):
            raise LeaseLostError(f"job {job.id} has another runner")

    def read_outcomes(self, id: str) -> dict[int, str]:
        """Return what came of each item that is done."""
        outcomes = self.records.read_outcomes(id)
        return {int(index): body for index, body in outcomes.items()}

    def append_event(self, job: Job, body: str) -> None:
        """Tell whoever watches the job; the last `KEPT_EVENTS` are kept.

        Raises:
            LeaseLostError: If the caller has lost the job.
        """
        if not self.records.append_event(job.id, body, keep=KEPT_EVENTS, guard=job.lease):
            raise LeaseLostError(f"job {job.id} has another runner")

    def read_events(self, id: str, *, after: int) -> list[Event]:
        """Return what happened to a job after the event of that number."""
        return self.records.read_events(id, after=after)

    def due_deliveries(self, *, limit: int) -> list[Job]:
        """Return jobs whose first delivery is due, those that wait longest first."""
        now = self.records.now()
        found = self._readable_in(WEBHOOK_INDEX, until=now)
        due = (job for _, job in found if job.deliver_at is not None and job.deliver_at <= now)
        return list(islice(due, limit))

    def take_delivery(self, due: Job, *, within_s: float, max_attempts: int) -> Job | None:
        """Return a job whose first delivery nobody else gets for `within_s`.

        None if somebody else has it, or if it was tried `max_attempts` times and whoever did so
        never came back to say how that ended: then it is dropped, for it may have ended them.
        """
        if (num_tries := due.deliveries[0].attempts) >= max_attempts:
            self._drop_due(due, f"no end of try {num_tries}")
            return None
        now = self.records.now()
        take = partial(transitions.take_delivery, now=now, policy=self.policy, within_s=within_s)
        return self._change_due(due, take)

    def put_back_delivery(self, due: Job, *, wait_s: float, max_age_s: float) -> None:
        """Let a delivery that is due wait, without a try; drop one that is older."""
        now = self.records.now()
        if now - due.deliveries[0].happened_at > max_age_s:
            self._drop_due(due, "its receiver is silent")
        else:
            put = partial(transitions.put_back_delivery, now=now, policy=self.policy)
            self._change_due(due, partial(put, until=now + wait_s))

    def settle_delivery(self, job: Job, *, retry_in_s: float | None) -> Job:
        """Drop the first delivery of a job that was taken, or try it again later."""
        now = self.records.now()
        retry_at = None if retry_in_s is None else now + retry_in_s
        id = job.deliveries[0].id
        settle = partial(transitions.settle_delivery, delivery_id=id, now=now, policy=self.policy)
        return self._change(job.id, partial(settle, retry_at=retry_at))

    def sweep(self) -> int:
        """Delete records that have outlived their use; return how many."""
        list_expired = partial(self.records.first, EXPIRY_INDEX, limit=_SWEPT)
        records = [self.records.read(id) for id in list_expired(until=self.records.now())]
        # Listed once more: one may have been given more time before it was read, and one that is
        # given more from here on has another version.
        expired = set(list_expired(until=self.records.now())) if records else set()
        return sum(self.records.delete(each) for each in records if each and each.id in expired)

    def fail_overdue(self) -> int:
        """Fail jobs whose time is up while they have no runner; return how many."""
        now = self.records.now()
        found = self._readable_in(DEADLINE_INDEX, until=now)
        overdue = islice((each for each in found if transitions.is_overdue(each[1], now)), _SWEPT)
        return sum(
            self._replace(transitions.fail_overdue(job, now, self.policy), record.version)
            for record, job in overdue
        )

    def fail_unreadable(self) -> int:
        """Fail jobs of another version, long after their time is up; return how many.

        Until then, a router of that version may do so, and tell their webhooks.
        """
        now = self.records.now()
        found = self._records_in(DEADLINE_INDEX, until=now - _UNREADABLE_FOR_S)
        unreadable = (record for record in found if _read_job(record) is None)
        failed = (fail_unreadable(record, now, self.policy) for record in unreadable)
        return sum(
            self.records.replace(record, drops_payload=True)
            for record in islice((each for each in failed if each is not None), _SWEPT)
        )

    def _readable_in(self, index: str, *, until: float) -> Iterator[tuple[Record, Job]]:
        """Yield an index's jobs in order, past any number of another version."""
        for record in self._records_in(index, until=until):
            job = _read_job(record)
            if job is not None:
                yield record, job

    def _records_in(self, index: str, *, until: float) -> Iterator[Record]:
        """Yield an index's records in order.

        From the front each time, since what the caller changes leaves the index: by position, as
        many would be passed over.
        """
        seen: set[str] = set()
        limit = _CANDIDATES
        while True:
            ids = self.records.first(index, until=until, limit=limit)
            for id in ids:
                record = None if id in seen else self.records.read(id)
                if record is not None:
                    yield record
            if len(ids) < limit:
                return
            seen.update(ids)
            limit *= 2

    def _change(self, id: str, transition: Callable[[Job], Job]) -> Job:
        for _ in range(_MAX_RACES):
            record = self._record(id)
            job = transition(_to_job(record))
            if self._replace(job, record.version):
                return job
        raise RecordStoreUnavailableError(f"job {id} changed {_MAX_RACES} times meanwhile")

    def _change_due(self, due: Job, transition: Callable[[Job], Job]) -> Job | None:
        """Change a job if nobody has touched its deliveries since they were found due."""
        record = self.records.read(due.id)
        job = None if record is None else _read_job(record)
        if record is None or job is None or job.deliver_at != due.deliver_at:
            return None
        changed = transition(job)
        return changed if self._replace(changed, record.version) else None

    def _drop_due(self, due: Job, why: str) -> None:
        id, now = due.deliveries[0].id, self.records.now()
        drop = partial(transitions.settle_delivery, delivery_id=id, now=now, policy=self.policy)
        if self._change_due(due, partial(drop, retry_at=None)) is not None:
            _logger.warning("webhook %s is given up: %s", id, why)

    def _replace(self, job: Job, version: int) -> bool:
        """Write a job, which needs its payload no more once it is final."""
        return self.records.replace(_to_record(job, version), drops_payload=job.status.is_final)

    def _record(self, id: str) -> Record:
        record = self.records.read(id)
        if record is None:
            raise JobNotFoundError(f"no job has the id {id}")
        return record


def _read_job(record: Record) -> Job | None:
    """Return a job; None for one of another version, which must not hold up its queue."""
    try:
        return _to_job(record)
    except JobFormatError:
        return None


def _to_job(record: Record) -> Job:
    return Job.from_json(record.body)


def _to_record(job: Job, version: int) -> Record:
    return Record(job.id, job.to_json(), version, job.lease, job.to_indexes())
