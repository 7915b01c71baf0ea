"""The requests of one job, from the first that is not done to the last."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from cluster.errors import JobFormatError
from cluster.jobs.job import Job, JobFailure, JobKind
from cluster.jobs.job_store import JobStore
from deployments.error_mapping import to_api_error
from deployments.errors import (
    ApiError,
    DeadlineExceededError,
    PoisonedRequestError,
    ReplicaLostError,
)
from deployments.generation import EventListener, ImagesOrder
from deployments.jobs.estimates import MeasuredEstimate
from deployments.jobs.orders import JobItem, read_items
from deployments.jobs.outcomes import Draw, StoredOutcome
from deployments.jobs.persistence import persist
from deployments.jobs.progress import ProgressLog
from deployments.jobs.room import RoomWait, Wait
from deployments.jobs.setbacks import Setbacks, growing_wait_s, retry_delay_s
from deployments.log import logger
from deployments.retries import MAX_LOST
from deployments.schemas import ImagesResponse
from deployments.store_threads import StoreThreads
from pipeline.errors import OutOfMemoryError
from pipeline.request import StepEvent


@dataclass
class _Run:
    """One runner's go at a job."""

    job: Job
    deadline: float
    log: ProgressLog
    slots: asyncio.Semaphore
    room: RoomWait
    num_losses: int = 0
    """Of replicas, by all requests."""


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
    ) -> JobFailure | Wait | None:
        """Draw every request that has no outcome yet; return why the job failed, if it did.

        A job all of whose requests wait for room comes to a `Wait`, as does one that this version
        cannot read: another router may.

        Raises:
            ExceptionGroup: Of `LeaseLostError`, if the job has another runner or was cancelled.
        """
        call = self.threads.call
        payload = await persist(partial(call, self.store.read_payload, job))
        try:
            items = read_items(payload)
        except JobFormatError as exc:
            logger.warning("job %s is left to another router: %s", job.id, exc)
            return Wait(growing_wait_s(job.num_waits + 1))
        done = await persist(partial(call, self.store.read_outcomes, job.id))
        outcomes = {index: StoredOutcome.model_validate_json(done[index]) for index in done}
        run = _Run(
            job,
            deadline=time.monotonic() + seconds_left,
            log=ProgressLog(self.store, self.threads, job),
            slots=asyncio.Semaphore(self.max_batch_concurrency),
            room=RoomWait(len(items) - len(outcomes)),
        )

        async def draw(index: int) -> None:
            outcome = await self._draw_item(run, items[index], index)
            if outcome is None:
                return
            outcomes[index] = outcome
            on_progress()
            if job.kind is JobKind.BATCH:
                run.log.tell("job.item", **_describe(index, outcome))

        async with asyncio.TaskGroup() as writing:
            writing.create_task(run.log.write())
            if not job.num_waits:
                run.log.tell("job.running", attempt=job.attempts)
            async with asyncio.TaskGroup() as drawing:
                for index in range(len(items)):
                    if index not in outcomes:
                        drawing.create_task(draw(index))
            await run.log.end()
        if run.room.is_given_up:
            return Wait(run.room.wait_s, is_blameless=not run.num_losses)
        return outcomes[0].to_failure() if job.kind is JobKind.IMAGE else None

    async def _draw_item(self, run: _Run, item: JobItem, index: int) -> StoredOutcome | None:
        """Draw one request, and keep what came of it; None if the job is put back."""
        listener = _step_listener(run.log) if run.job.kind is JobKind.IMAGE else None
        setbacks = Setbacks(num_refusals=run.job.num_waits)
        while not run.room.is_given_up:
            # Held while it draws, and not while it waits: others may have room.
            async with run.slots:
                outcome = await self._try(run, item, listener, setbacks)
                if outcome is not None:
                    put = partial(self.store.put_outcome, run.job, index, outcome.to_json())
                    await persist(partial(self.threads.call, put))
                    run.room.leave()
                    return outcome
            wait = run.room.sleep if setbacks.num_refusals else asyncio.sleep
            await wait(setbacks.delay_s)
        return None

    async def _try(
        self, run: _Run, item: JobItem, listener: EventListener | None, setbacks: Setbacks
    ) -> StoredOutcome | None:
        """Draw one request once; None if it is to be tried again after the setbacks' delay."""
        try:
            answer = await self._draw_once(item.order, run.deadline, listener)
            return StoredOutcome.of_answer(answer, is_base64=item.is_base64)
        except Exception as exc:  # noqa: BLE001 whatever it is, it fails this request alone
            error = to_api_error(exc, request_id=item.order.request_id)
            num_lost = _count_losses(exc)
        run.num_losses += num_lost
        setbacks.add(error, num_lost=num_lost)
        delay_s = retry_delay_s(error, setbacks)
        if delay_s is None:
            return StoredOutcome.of_error(error)
        if time.monotonic() + delay_s >= run.deadline:
            return StoredOutcome.of_error(_too_late(error))
        setbacks.delay_s = delay_s
        return None

    async def _draw_once(
        self, order: ImagesOrder, deadline: float, listener: EventListener | None
    ) -> ImagesResponse:
        started = time.monotonic()
        seconds_left = deadline - started
        if seconds_left <= 0:
            raise _too_late(None)
        timeout_s = min(order.timeout_s, seconds_left)
        order = replace(
            order,
            timeout_s=timeout_s,
            outwaits_store=True,
            outwaits_start=False,
            may_come_again=True,
        )
        answer = await self.draw(order, listener)
        self.estimate.observe(order, time.monotonic() - started)
        return answer


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
