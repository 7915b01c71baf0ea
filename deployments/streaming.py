"""One picture as a stream of events: drawn at its own pace, read at the reader's. No HTTP here."""

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Self

from deployments.error_mapping import to_api_error
from deployments.generation import (
    EventListener,
    ImagesOrder,
)
from deployments.partial_images import encode_partial_image
from deployments.pending_steps import PendingStep, PendingSteps
from deployments.schemas import ImagesResponse
from deployments.stream_events import (
    HEARTBEAT,
    CompletedEvent,
    PartialImageEvent,
    ProgressEvent,
    to_error_sse,
    to_sse,
)
from pipeline.request import StepEvent


class ImageStream:
    """Draws in a task of its own, so that a reader who stalls never holds a step back."""

    def __init__(
        self,
        draw: Callable[[EventListener], Coroutine[Any, Any, ImagesResponse]],
        order: ImagesOrder,
        *,
        sends_progress: bool,
        heartbeat_s: float,
    ) -> None:
        self._order = order
        self._sends_progress = sends_progress
        self._heartbeat_s = heartbeat_s
        self._pending = PendingSteps()
        self._changed = asyncio.Event()
        self._drawing = asyncio.create_task(draw(self._on_step))
        self._drawing.add_done_callback(lambda _: self._changed.set())

    async def open(self) -> Self:
        """Wait for the first step, but no longer than a heartbeat.

        Raises:
            Exception: What refused the call until then: it can still have a status of its own.
        """
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.close)
            await self._wait()
            if self._drawing.done():
                self._drawing.result()
            stack.pop_all()
        return self

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield framed events; the last one is the picture or an error."""
        try:
            while (step := self._pending.take()) is not None or not self._drawing.done():
                if step is not None:
                    for framed in await self._tell(step):
                        yield framed
                elif not await self._wait():
                    yield HEARTBEAT
            last = await asyncio.to_thread(self._frame_completed, self._drawing.result())
        except Exception as exc:  # noqa: BLE001 whatever it is, the reader is told of it
            last = to_error_sse(to_api_error(exc, request_id=self._order.request_id))
        yield last

    async def close(self) -> None:
        """Let the picture go at its next step, if it is still being drawn."""
        self._drawing.cancel()
        await asyncio.wait([self._drawing])
        if not self._drawing.cancelled():
            # Asked for, so that a failure which nobody reads is not reported as forgotten.
            self._drawing.exception()

    async def _on_step(self, index: int, event: StepEvent) -> None:
        if self._sends_progress or event.preview is not None:
            self._pending.add(event)
        self._changed.set()

    async def _wait(self) -> bool:
        """Wait for news; False if there was none for as long as a heartbeat."""
        try:
            async with asyncio.timeout(self._heartbeat_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    async def _tell(self, step: PendingStep) -> list[bytes]:
        framed = []
        if self._sends_progress:
            progress = ProgressEvent(
                step=step.event.step, num_inference_steps=step.event.num_inference_steps
            )
            framed.append(to_sse(progress))
        if step.partial_image_index is not None:
            framed.append(await asyncio.to_thread(self._frame_partial, step))
        return framed

    def _frame_partial(self, step: PendingStep) -> bytes:
        assert step.event.preview is not None
        assert step.partial_image_index is not None
        order = self._order
        content = encode_partial_image(step.event.preview, order.size, order.output_format)
        event = PartialImageEvent(
            b64_json=base64.b64encode(content).decode("ascii"),
            created_at=int(time.time()),
            output_format=order.output_format.value,
            size=str(order.size),
            partial_image_index=step.partial_image_index,
            step=step.event.step,
            num_inference_steps=step.event.num_inference_steps,
        )
        return to_sse(event)

    def _frame_completed(self, response: ImagesResponse) -> bytes:
        (item,) = response.data
        assert item.b64_json is not None
        event = CompletedEvent(
            **response.model_dump(exclude={"created", "data", "usage"}),
            b64_json=item.b64_json,
            seed=item.seed,
            key=item.key,
            created_at=int(time.time()),
            usage=response.usage,
        )
        return to_sse(event)
