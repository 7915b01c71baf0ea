"""A job as its caller sees it."""

from collections.abc import Mapping

from cluster.jobs.job import Job, JobKind, JobStatus, Lane
from cluster.jobs.job_store import JobStore
from deployments.jobs.estimates import left_s, wait_s
from deployments.jobs.outcomes import JobError, OutcomeReader, StoredOutcome
from deployments.jobs.schemas import BatchItem, BatchResult, JobBody
from deployments.schemas import ImagesResponse
from deployments.store_threads import StoreThreads


class JobDescriber:
    """Reads what belongs to a job, and says it in the contract's form."""

    def __init__(
        self,
        store: JobStore,
        threads: StoreThreads,
        outcomes: OutcomeReader,
        *,
        num_slots: Mapping[Lane, int],
    ) -> None:
        self._store = store
        self._threads = threads
        self._outcomes = outcomes
        self._num_slots = num_slots

    async def describe(self, job: Job, *, with_result: bool = True) -> JobBody:
        """Return the job, with its place in the queue or its result.

        Raises:
            ClusterError: If one of the stores cannot be reached.
        """
        body = to_body(job)
        if job.status is JobStatus.QUEUED:
            count = self._store.count_queued
            num_ahead = await self._threads.call(count, job.lane, before=job.place)
            return self.describe_queued(job, num_ahead)
        if job.begun_at is not None:
            ran_s = await self._threads.call(self._store.records.now) - job.begun_at
            return body.model_copy(update={"estimate_s": round(left_s(job.estimate_s, ran_s), 3)})
        if job.status.is_final and with_result:
            return body.model_copy(update={"result": await self._read_result(job)})
        return body

    def describe_queued(self, job: Job, num_ahead: int) -> JobBody:
        """Return a job that has not begun, with its place in the queue; asks no store."""
        estimate_s = round(wait_s(job.estimate_s, num_ahead, self._num_slots[job.lane]), 3)
        return to_body(job).model_copy(
            update={"queue_position": num_ahead, "estimate_s": estimate_s}
        )

    async def _read_result(self, job: Job) -> ImagesResponse | BatchResult | None:
        stored = await self._threads.call(self._store.read_outcomes, job.id)
        outcomes = {index: StoredOutcome.model_validate_json(stored[index]) for index in stored}
        if job.kind is JobKind.BATCH:
            items = [await self._to_item(index, outcomes[index]) for index in sorted(outcomes)]
            return BatchResult(data=items)
        if job.status is not JobStatus.SUCCEEDED:
            return None
        return await self._outcomes.open(outcomes[0])

    async def _to_item(self, index: int, outcome: StoredOutcome) -> BatchItem:
        return BatchItem(
            index=index,
            status="succeeded" if outcome.error is None else "failed",
            result=await self._outcomes.open(outcome),
            error=outcome.error,
        )


def to_body(job: Job) -> JobBody:
    """Return what the job's own record says."""
    failure = job.failure
    return JobBody(
        id=job.id,
        object="image.batch" if job.kind is JobKind.BATCH else "image.job",
        status=job.status.value,
        created=int(job.created_at),
        started=None if job.started_at is None else int(job.started_at),
        finished=None if job.finished_at is None else int(job.finished_at),
        expires=None if job.expires_at is None else int(job.expires_at),
        estimate_s=None if job.status.is_final else round(job.estimate_s, 3),
        num_requests=job.num_items,
        error=None
        if failure is None
        else JobError(
            message=failure.message, type=failure.type, param=failure.param, code=failure.code
        ),
    )
