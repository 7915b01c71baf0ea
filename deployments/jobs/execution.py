"""The requests of one job, from the first that is not done to the last."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from cluster.jobs.job import Job, JobFailure, JobKind
from cluster.jobs.job_store import JobStore
from deployments.error_mapping import to_api_error
from deployments.errors import (
    ApiError,
    DeadlineExceededError,
    DependencyError,
    OverloadedError,
    PoisonedRequestError,
    ReplicaLostError,
)
from deployments.generation import EventListener, ImagesOrder
from deployments.jobs.estimates import MeasuredEstimate
from deployments.jobs.orders import JobItem, read_items
from deployments.jobs.outcomes import Draw, StoredOutcome
from deployments.jobs.persistence import persist
from deployments.jobs.progress import ProgressLog
from deployments.retries import MAX_LOST
from deployments.schemas import ImagesResponse
from deployments.store_threads import StoreThreads
from pipeline.errors import OutOfMemoryError
from pipeline.request import StepEvent

_MAX_LOSSES: Final = 4
"""Replicas that a request may lose before it is held to be the reason."""
_PASSING: Final = (OverloadedError, ReplicaLostError, PoisonedRequestError, DependencyError)
"""Errors after which a request may still be drawn."""
_MAX_WAIT_S: Final = 30.0
_MAX_DOUBLINGS: Final = 5


@dataclass(frozen=True)
class JobExecution:
    """Draws what is left of a job."""

    draw: Draw
    store: JobStore
    threads: StoreThreads
    estimate: MeasuredEstimate
    max_batch_concurrency: int

    async def run(
        self, job: Job, seconds_left: float, on_progress: Callable[[], None]
    ) -> JobFailure | None:
        """Draw every request that has no outcome yet; return why the job failed, if it did.

        Raises:
            ExceptionGroup: Of `LeaseLostError`, if the job has another runner or was cancelled.
        """
        call = self.threads.call
        items = read_items(await persist(partial(call, self.store.read_payload, job)))
        done = await persist(partial(call, self.store.read_outcomes, job.id))
        outcomes = {index: StoredOutcome.model_validate_json(done[index]) for index in done}
        deadline = time.monotonic() + seconds_left
        log = ProgressLog(self.store, self.threads, job)
        slots = asyncio.Semaphore(self.max_batch_concurrency)

        async def draw(index: int) -> None:
            async with slots:
                outcome = await self._draw_item(job, items[index], index, deadline, log)
                put = partial(self.store.put_outcome, job, index, outcome.to_json())
                await persist(partial(call, put))
            outcomes[index] = outcome
            on_progress()
            if job.kind is JobKind.BATCH:
                log.tell("job.item", **_describe(index, outcome))

        async with asyncio.TaskGroup() as writing:
            writing.create_task(log.write())
            log.tell("job.running", attempt=job.attempts)
            async with asyncio.TaskGroup() as drawing:
                for index in range(len(items)):
                    if index not in outcomes:
                        drawing.create_task(draw(index))
            await log.end()
        return outcomes[0].to_failure() if job.kind is JobKind.IMAGE else None

    async def _draw_item(
        self, job: Job, item: JobItem, index: int, deadline: float, log: ProgressLog
    ) -> StoredOutcome:
        listener = _step_listener(log) if job.kind is JobKind.IMAGE else None
        num_losses = num_outages = 0
        while True:
            try:
                answer = await self._draw_once(item.order, deadline, listener)
                return StoredOutcome.of_answer(answer, is_base64=item.is_base64)
            except Exception as exc:  # noqa: BLE001 whatever it is, it fails this request alone
                error = to_api_error(exc, request_id=item.order.request_id)
                num_losses += _count_losses(exc)
                num_outages = num_outages + 1 if isinstance(error, DependencyError) else 0
            delay_s = retry_delay_s(error, num_losses, num_outages)
            if delay_s is None:
                return StoredOutcome.of_error(error)
            if time.monotonic() + delay_s >= deadline:
                return StoredOutcome.of_error(_too_late(error))
            await asyncio.sleep(delay_s)

    async def _draw_once(
        self, order: ImagesOrder, deadline: float, listener: EventListener | None
    ) -> ImagesResponse:
        started = time.monotonic()
        seconds_left = deadline - started
        if seconds_left <= 0:
            raise _too_late(None)
        timeout_s = min(order.timeout_s, seconds_left)
        order = replace(order, timeout_s=timeout_s, outwaits_store=True, may_come_again=True)
        answer = await self.draw(order, listener)
        self.estimate.observe(order, time.monotonic() - started)
        return answer


def retry_delay_s(error: ApiError, num_losses: int, num_outages: int) -> float | None:
    """Return the seconds until a failed request is tried again; None for never.

    A service that is full is no fault of the request, which waits for it until its deadline;
    replicas that die with it may be. While a store is away each try may draw the picture for
    nothing: of several outages in a row each is waited out for twice as long.
    """
    if not isinstance(error, _PASSING):
        return None
    if num_losses >= _MAX_LOSSES:
        return None
    if num_losses:
        return float(num_losses)
    # An exponent that stays small: a job may meet an outage for days.
    doublings = min(max(0, num_outages - 1), _MAX_DOUBLINGS)
    return min(_MAX_WAIT_S, float(error.retry_after_s or 1) * 2.0**doublings)


def _count_losses(exc: Exception) -> int:
    """Count the replicas that one try of a request took with it."""
    if isinstance(exc, PoisonedRequestError):
        return MAX_LOST
    return int(isinstance(exc, ReplicaLostError | OutOfMemoryError))


def _too_late(last: ApiError | None) -> DeadlineExceededError:
    reason = "" if last is None else f"; at last, {last.message}"
    return DeadlineExceededError(f"timeout_s must be enough to finish{reason}", "timeout_s")


def _step_listener(log: ProgressLog) -> EventListener:
    async def on_step(index: int, event: StepEvent) -> None:
        log.tell(
            "job.step",
            image_index=index,
            step=event.step,
            num_inference_steps=event.num_inference_steps,
        )

    return on_step


def _describe(index: int, outcome: StoredOutcome) -> dict[str, object]:
    return {"index": index, "status": "succeeded" if outcome.error is None else "failed"}
