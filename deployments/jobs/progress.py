"""What a job tells while it runs: a bounded log in the store, which many may read at once."""

import asyncio
import json
from typing import Any, Final

from cluster.errors import RecordStoreError
from cluster.jobs.job import Job
from cluster.jobs.job_store import JobStore
from deployments.log import logger
from deployments.store_threads import StoreThreads

_MAX_WAITING: Final = 64


class ProgressLog:
    """Writes events behind the work, which never waits for them.

    Where the store is too slow or away, events are left out: a result never is.
    """

    def __init__(self, store: JobStore, threads: StoreThreads, job: Job) -> None:
        self._store = store
        self._threads = threads
        self._job = job
        self._waiting: asyncio.Queue[str | None] = asyncio.Queue(_MAX_WAITING)

    def tell(self, type: str, **facts: Any) -> None:
        """Note an event."""
        if not self._waiting.full():
            body = {"type": type, "job_id": self._job.id, **facts}
            self._waiting.put_nowait(json.dumps(body))

    async def end(self) -> None:
        """Let `write` return when it has written all."""
        await self._waiting.put(None)

    async def write(self) -> None:
        """Write what is told, until the end.

        Raises:
            LeaseLostError: If the job has another runner, or was cancelled.
        """
        while (body := await self._waiting.get()) is not None:
            try:
                await self._threads.call(self._store.append_event, self._job, body)
            except RecordStoreError as exc:
                logger.warning("job %s: an event was left out: %s", self._job.id, exc)
