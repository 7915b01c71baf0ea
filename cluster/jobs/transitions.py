"""What may happen to a job: pure functions from a job to the next one."""

from dataclasses import dataclass, replace
from typing import Final

from cluster.errors import JobFinishedError, LeaseLostError
from cluster.jobs.job import Delivery, Job, JobFailure, JobStatus

DEADLINE: Final = JobFailure(
    "the job was not finished in timeout_s", "server_error", "deadline_exceeded", "timeout_s"
)
EXHAUSTED: Final = JobFailure(
    "the job was begun too often without finishing", "server_error", "attempts_exhausted"
)
OWED_RETENTION_S: Final = 86_400.0
"""Messages wait so long for somebody to send them, however soon finished jobs are forgotten."""


@dataclass(frozen=True)
class JobPolicy:
    """How long things last."""

    lease_s: float
    """A runner that is silent for so long has lost its job."""
    max_attempts: int
    """A job that was begun so often without progress fails."""
    retention_s: float
    """A finished job is forgotten after this, from the last that its webhook was to hear."""


def turn_after(last: Job | None, now: float) -> float:
    """Return the turn of a job that is accepted after its owner's last one in the queue."""
    return now if last is None else max(now, last.place + last.estimate_s)


def is_claimable(job: Job, now: float) -> bool:
    """Say whether a runner may take the job."""
    if job.status is JobStatus.QUEUED:
        return job.not_before is None or job.not_before <= now
    return job.lease_expires_at is not None and job.lease_expires_at <= now


def claim(job: Job, lease: str, now: float, policy: JobPolicy) -> Job:
    """Give a claimable job to the runner that `lease` names, or fail it for good."""
    if job.deadline_at <= now:
        return _finish(job, JobStatus.FAILED, DEADLINE, now, policy)
    if job.attempts >= policy.max_attempts:
        return _finish(job, JobStatus.FAILED, EXHAUSTED, now, policy)
    begun = replace(
        job,
        status=JobStatus.RUNNING,
        attempts=job.attempts + 1,
        lease=lease,
        lease_expires_at=now + policy.lease_s,
        begun_at=now,
        not_before=None,
        started_at=now if job.started_at is None else job.started_at,
    )
    return begun if job.started_at is not None else _announce(begun, now)


def is_overdue(job: Job, now: float) -> bool:
    """Say whether the job's time is up while it has no runner."""
    has_runner = job.lease_expires_at is not None and job.lease_expires_at > now
    return not job.status.is_final and job.deadline_at <= now and not has_runner


def fail_overdue(job: Job, now: float, policy: JobPolicy) -> Job:
    """End a job whose time is up while it has no runner."""
    return _finish(job, JobStatus.FAILED, DEADLINE, now, policy)


def renew(job: Job, lease: str, now: float, policy: JobPolicy, *, has_progressed: bool) -> Job:
    """Extend a lease; progress proves that the job is no poison.

    Raises:
        LeaseLostError: If another runner has the job, or it is final.
    """
    _check_lease(job, lease)
    attempts = 1 if has_progressed else job.attempts
    num_waits = 0 if has_progressed else job.num_waits
    expires_at = now + policy.lease_s
    return replace(job, attempts=attempts, num_waits=num_waits, lease_expires_at=expires_at)


def release(job: Job, lease: str) -> Job:
    """Put a job back into its queue, as if it had not been begun.

    Raises:
        LeaseLostError: If another runner has the job, or it is final.
    """
    _check_lease(job, lease)
    return replace(
        job,
        status=JobStatus.QUEUED,
        attempts=job.attempts - 1,
        lease="",
        lease_expires_at=None,
        begun_at=None,
    )


def put_off(job: Job, lease: str, until: float, *, is_blameless: bool) -> Job:
    """Put a job back that waits for room in a pool; others are begun until then.

    Args:
        job: The job.
        lease: Names its runner.
        until: When to try again.
        is_blameless: Whether no drawing was begun in vain, so that no attempt is counted.

    Raises:
        LeaseLostError: If another runner has the job, or it is final.
    """
    put_back = release(job, lease)
    attempts = put_back.attempts if is_blameless else job.attempts
    return replace(put_back, attempts=attempts, not_before=until, num_waits=job.num_waits + 1)


def finish(job: Job, lease: str, failure: JobFailure | None, now: float, policy: JobPolicy) -> Job:
    """End a job, well if there is no failure.

    Raises:
        LeaseLostError: If another runner has the job, or it is final.
    """
    _check_lease(job, lease)
    status = JobStatus.SUCCEEDED if failure is None else JobStatus.FAILED
    return _finish(job, status, failure, now, policy)


def cancel(job: Job, now: float, policy: JobPolicy) -> Job:
    """End a job at its owner's wish; its runner finds its lease gone.

    Raises:
        JobFinishedError: If it has succeeded or failed.
    """
    if job.status is JobStatus.CANCELLED:
        return job
    if job.status.is_final:
        raise JobFinishedError(f"job must be queued or running, got {job.status.value}")
    return _finish(job, JobStatus.CANCELLED, None, now, policy)


def take_delivery(job: Job, now: float, policy: JobPolicy, *, within_s: float) -> Job:
    """Count a try of the first delivery, which nobody else tries for `within_s`."""
    first, *rest = job.deliveries
    tried = replace(first, attempts=first.attempts + 1)
    taken = replace(job, deliveries=(tried, *rest), deliver_at=now + within_s)
    return _keep(taken, now, policy)


def put_back_delivery(job: Job, now: float, policy: JobPolicy, *, until: float) -> Job:
    """Let the first delivery wait, without a try."""
    return _keep(replace(job, deliver_at=until), now, policy)


def settle_delivery(
    job: Job, delivery_id: str, now: float, policy: JobPolicy, *, retry_at: float | None
) -> Job:
    """Drop a delivery that has arrived or is given up, or try it again at `retry_at`."""
    if not job.deliveries or job.deliveries[0].id != delivery_id:
        return job
    if retry_at is not None:
        return put_back_delivery(job, now, policy, until=retry_at)
    rest = job.deliveries[1:]
    settled = replace(job, deliveries=rest, deliver_at=now if rest else None)
    return _keep(settled, now, policy)


def _finish(
    job: Job, status: JobStatus, failure: JobFailure | None, now: float, policy: JobPolicy
) -> Job:
    finished = replace(
        job,
        status=status,
        failure=failure,
        lease="",
        lease_expires_at=None,
        begun_at=None,
        not_before=None,
        finished_at=now,
    )
    return _keep(_announce(finished, now), now, policy)


def _announce(job: Job, now: float) -> Job:
    """Owe the webhook a message about the status that the job has reached."""
    if job.webhook_url is None:
        return job
    delivery = Delivery(f"msg-{job.id}-{job.status.value}", f"job.{job.status.value}", now)
    deliver_at = now if job.deliver_at is None else job.deliver_at
    return replace(job, deliveries=(*job.deliveries, delivery), deliver_at=deliver_at)


def _keep(job: Job, now: float, policy: JobPolicy) -> Job:
    """Say until when a final job is kept: at least until it owes nobody a message."""
    if not job.status.is_final:
        return job
    if job.deliver_at is None:
        return replace(job, expires_at=now + policy.retention_s)
    kept_s = max(policy.retention_s, OWED_RETENTION_S)
    return replace(job, expires_at=max(now, job.deliver_at) + kept_s)


def _check_lease(job: Job, lease: str) -> None:
    if job.status is not JobStatus.RUNNING or job.lease != lease:
        raise LeaseLostError(f"job {job.id} has another runner or is {job.status.value}")
