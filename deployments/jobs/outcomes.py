"""What came of a call, kept with the keys of its pictures: URLs are signed when it is read."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Self

from pydantic import BaseModel, ConfigDict

from cluster.jobs.job import JobFailure
from cluster.storage import ImageStore
from deployments.concurrency import gather_or_cancel
from deployments.errors import ApiError
from deployments.generation import EventListener, ImagesOrder
from deployments.schemas import ErrorDetail, ImageItem, ImagesResponse
from deployments.store_threads import StoreThreads

Draw = Callable[[ImagesOrder, EventListener | None], Awaitable[ImagesResponse]]
"""Draws an order and describes its pictures."""


class JobError(ErrorDetail):
    """Why a request of a job failed: OpenAI's error object, without a `param` that is null."""

    param: str | None = None


class StoredOutcome(BaseModel):
    """An answer, an error, or the job that was accepted."""

    model_config = ConfigDict(frozen=True)

    answer: ImagesResponse | None = None
    is_base64: bool = False
    error: JobError | None = None
    job_id: str | None = None

    @classmethod
    def of_answer(cls, answer: ImagesResponse, *, is_base64: bool) -> Self:
        """Keep an answer without its URLs and files."""
        bare = [item.model_copy(update={"url": None, "b64_json": None}) for item in answer.data]
        return cls(answer=answer.model_copy(update={"data": bare}), is_base64=is_base64)

    @classmethod
    def of_error(cls, error: ApiError) -> Self:
        """Keep an error."""
        return cls(error=JobError(**error.to_body()["error"]))

    def to_failure(self) -> JobFailure | None:
        """Return the error as a job has it."""
        return None if self.error is None else JobFailure(**self.error.model_dump())

    def to_json(self) -> str:
        """Return what a store keeps."""
        return self.model_dump_json(exclude_none=True)


class OutcomeReader:
    """Turns kept answers into answers that a caller can use."""

    def __init__(self, store: ImageStore, threads: StoreThreads, *, url_lifetime_s: int) -> None:
        self._store = store
        self._threads = threads
        self._url_lifetime_s = url_lifetime_s

    async def open(self, outcome: StoredOutcome) -> ImagesResponse | None:
        """Sign the URLs of an answer, or read its files if the caller wants them.

        Raises:
            StoreError: If a file cannot be read.
        """
        answer = outcome.answer
        if answer is None:
            return None
        if outcome.is_base64:
            items = await gather_or_cancel(
                [self._threads.call(self._embed, item) for item in answer.data]
            )
        else:
            # Signing reads nothing from the store, whose threads may be held up.
            items = await asyncio.to_thread(lambda: [self._sign(item) for item in answer.data])
        return answer.model_copy(update={"data": items})

    def _sign(self, item: ImageItem) -> ImageItem:
        signed = self._store.sign(item.key, lifetime_s=self._url_lifetime_s)
        return item.model_copy(update={"url": signed.url})

    def _embed(self, item: ImageItem) -> ImageItem:
        content = base64.b64encode(self._store.get(item.key).content).decode("ascii")
        return item.model_copy(update={"b64_json": content})
