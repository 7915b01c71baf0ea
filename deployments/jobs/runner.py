"""Runs queued jobs inside a router replica; another replica's runner takes over when it dies."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from opentelemetry import context as otel_context

from cluster.errors import ClusterError, LeaseLostError, RecordStoreError
from cluster.jobs.job import Job, JobFailure, Lane
from cluster.jobs.job_store import JobStore
from cluster.spans import from_carrier
from deployments.error_mapping import to_api_error
from deployments.jobs.execution import JobExecution
from deployments.jobs.outcomes import StoredOutcome
from deployments.jobs.persistence import persist
from deployments.jobs.room import Wait
from deployments.log import logger
from deployments.store_threads import StoreThreads

_OVERDUE_S: Final = 1.0
_SWEEP_S: Final = 60.0
_AWAY_S: Final = 1.0


class JobRunner:
    """Claims jobs while it has room, and keeps their leases while it draws."""

    def __init__(
        self,
        execution: JobExecution,
        store: JobStore,
        threads: StoreThreads,
        *,
        num_slots: dict[Lane, int],
        poll_s: float,
    ) -> None:
        self._execution = execution
        self._store = store
        self._threads = threads
        self._num_slots = num_slots
        self._poll_s = poll_s
        self._queued = {lane: asyncio.Event() for lane in num_slots}
        self._dropped: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to claim jobs."""
        lanes = [self._serve(lane, count) for lane, count in self._num_slots.items()]
        sweeps = [self._sweep(sweep, period_s) for sweep, period_s in self._sweeps().items()]
        self._tasks = [asyncio.create_task(each) for each in (*lanes, *sweeps)]

    async def stop(self) -> None:
        """Put back the jobs that run, so that another router goes on at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wake(self, lane: Lane) -> None:
        """Tell that a job was queued here."""
        self._queued[lane].set()

    def drop(self, job_id: str) -> None:
        """Tell that a job was cancelled here; it may run elsewhere."""
        if job_id in self._dropped:
            self._dropped[job_id].set()

    async def _serve(self, lane: Lane, num_slots: int) -> None:
        slots = asyncio.Semaphore(num_slots)
        waiting_first = False
        async with asyncio.TaskGroup() as running:
            while True:
                await slots.acquire()
                job = await self._next(lane, waiting_first=waiting_first)
                waiting_first = not waiting_first
                running.create_task(self._run(job)).add_done_callback(lambda _: slots.release())
                # A task that is cancelled before it begins could not put its job back.
                await asyncio.sleep(0)

    async def _next(self, lane: Lane, *, waiting_first: bool) -> Job:
        while True:
            self._queued[lane].clear()
            try:
                job = await self._claim(lane, waiting_first=waiting_first)
            except ClusterError as exc:
                logger.warning("jobs cannot be claimed: %s", exc)
            except Exception:  # noqa: BLE001 a lane that ends leaves its jobs queued for ever
                logger.exception("jobs cannot be claimed")
            else:
                if job is not None:
                    return job
                await _wait(self._queued[lane], self._poll_s)
                continue
            await asyncio.sleep(_AWAY_S)

    async def _claim(self, lane: Lane, *, waiting_first: bool) -> Job | None:
        """Claim a job; one that arrives after this is cancelled is put back."""
        claim = partial(self._store.claim, lane, waiting_first=waiting_first)
        claiming = asyncio.ensure_future(self._threads.call(claim))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                if (job := await claiming) is not None:
                    await self._release(job)
            raise

    async def _run(self, job: Job) -> None:
        # Never detached: the context is that of this job's own task.
        if (context := from_carrier(job.trace)) is not None:
            otel_context.attach(context)
        dropped = self._dropped[job.id] = asyncio.Event()
        try:
            end = await self._draw(job, dropped)
            await persist(partial(self._threads.call, self._settle, job, end))
        except LeaseLostError:
            logger.info("job %s was cancelled, or has another runner", job.id)
        except asyncio.CancelledError:
            await self._release(job)
            raise
        except ClusterError as exc:
            logger.warning("job %s is left to its lease: %s", job.id, exc)
        except Exception:  # noqa: BLE001 raised, it would end the lane and all that runs in it
            logger.exception("job %s is left to its lease", job.id)
        finally:
            # A job whose lease ran out may have been claimed here once more.
            if self._dropped.get(job.id) is dropped:
                del self._dropped[job.id]

    def _settle(self, job: Job, end: JobFailure | Wait | None) -> None:
        if isinstance(end, Wait):
            self._store.put_off(job, wait_s=end.seconds, is_blameless=end.is_blameless)
            logger.debug("job %s waits for room for %.1f s", job.id, end.seconds)
        else:
            self._store.finish(job, end)
            logger.info("job %s ended in attempt %d", job.id, job.attempts)

    async def _draw(self, job: Job, dropped: asyncio.Event) -> JobFailure | Wait | None:
        progress = _Progress()
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._keep_lease(job, dropped, progress))
                now = await persist(partial(self._threads.call, self._store.records.now))
                end = await self._execution.run(job, job.deadline_at - now, progress.note)
                keeper.cancel()
            return end
        except BaseExceptionGroup as group:
            cause = _first_of(group)
            if isinstance(cause, LeaseLostError | RecordStoreError):
                raise cause from group
            error = to_api_error(cause, request_id=job.request_id)
            return StoredOutcome.of_error(error).to_failure()

    async def _keep_lease(self, job: Job, dropped: asyncio.Event, progress: "_Progress") -> None:
        renew_s = self._store.policy.lease_s / 3
        renewed = time.monotonic()
        while True:
            await _wait(dropped, min(self._poll_s, renew_s))
            try:
                if not await self._threads.call(self._store.has_lease, job):
                    raise LeaseLostError(f"job {job.id} was cancelled, or has another runner")
                if time.monotonic() - renewed >= renew_s:
                    renew = partial(self._store.renew, job, has_progressed=progress.is_new())
                    await self._threads.call(renew)
                    renewed = time.monotonic()
            except LeaseLostError:
                raise
            except ClusterError as exc:
                # Work goes on: when the store is back, the lease may be nobody else's yet.
                logger.warning("job %s: its lease cannot be renewed: %s", job.id, exc)

    async def _release(self, job: Job) -> None:
        try:
            await self._threads.call(self._store.release, job)
        except ClusterError as exc:
            logger.warning("job %s is left to its lease: %s", job.id, exc)

    def _sweeps(self) -> dict[Callable[[], int], float]:
        """Return what is done to jobs that nobody runs, and how often."""
        store = self._store
        return {
            store.fail_overdue: _OVERDUE_S,
            store.fail_unreadable: _SWEEP_S,
            store.sweep: _SWEEP_S,
        }

    async def _sweep(self, sweep: Callable[[], int], period_s: float) -> None:
        while True:
            try:
                while await self._threads.call(sweep):
                    continue
            except ClusterError as exc:
                logger.warning("jobs cannot be swept: %s", exc)
            except Exception:  # noqa: BLE001 it may be gone at the next time
                logger.exception("jobs cannot be swept")
            await asyncio.sleep(period_s)


class _Progress:
    """Whether a job has come further since its lease was last renewed."""

    def __init__(self) -> None:
        self._has_progressed = False

    def note(self) -> None:
        self._has_progressed = True

    def is_new(self) -> bool:
        has_progressed, self._has_progressed = self._has_progressed, False
        return has_progressed


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _first_of(group: BaseExceptionGroup[BaseException]) -> Exception:
    """Return the error of a group that began it.

    A lost lease explains all others; where the store failed, none of them may end the job.
    """
    subgroups = (group.subgroup(kind) for kind in (LeaseLostError, RecordStoreError))
    error: BaseException = next((each for each in subgroups if each is not None), group)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, Exception):
        raise error
    return error
