"""The steps of one picture; every way to ask for one goes through here. No HTTP, no Ray."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib import metadata
from typing import Final, TypeVar

from cluster.cost import full_image_units
from cluster.errors import StoreError
from cluster.storage import ImageStore, build_key
from deployments.call_files import CallFiles
from deployments.concurrency import gather_or_cancel
from deployments.drawn_images import DrawnImage, DrawnImages, StageTimes
from deployments.errors import (
    RETRY_AFTER_S,
    DeadlineExceededError,
    DependencyError,
    OverloadedError,
)
from deployments.log import logger
from deployments.other_stages import OtherStages
from deployments.pool_choice import PoolChooser, Route
from deployments.retries import outwait_store, try_again
from deployments.routing.decisions import RequestFacts
from deployments.served_model import ServedModel
from deployments.stages import Denoised, Encoded, FileOrder, ImageFile, Stages, take_latents
from deployments.store_threads import StoreThreads
from pipeline.image_file import OutputFormat
from pipeline.provenance import ImageProvenance
from pipeline.request import (
    DenoiseRequest,
    ImageSize,
    Priority,
    PromptEncoding,
    RenderPath,
    StepEvent,
)

T = TypeVar("T")

SOFTWARE: Final = f"zimage-serve {metadata.version('zimage-serve')}"
EventListener = Callable[[int, StepEvent], Awaitable[None]]
"""Is told the index of a picture and its step."""
RouteListener = Callable[[Route], Awaitable[None]]
"""Is told where an accepted call goes, before any work is done."""


@dataclass(frozen=True)
class ImagesOrder:
    """A validated call: what is to be drawn, by when, and under which name it is kept."""

    id: str
    """Made by the server; keys the storage."""
    request_id: str
    """The caller's own, for correlation only."""
    accepted: datetime
    prompt: str
    num_images: int
    size: ImageSize
    seed: int
    num_inference_steps: int
    priority: Priority
    timeout_s: float
    pinned_path: RenderPath | None
    output_format: OutputFormat
    output_compression: int | None
    num_previews: int = 0
    tells_every_step: bool = True
    """Whether a listener hears of steps without a preview; each costs a message from the pool."""
    key_id: str = "anonymous"
    """Whose call it is, for usage records."""
    is_seed_given: bool = False
    """By the caller; a seed that the server drew comes but once."""
    owner_prefix: str = ""
    """Of the caller's key, below the store's own prefix."""
    outwaits_store: bool = False
    """Whether a drawn picture waits for a store that is away; a caller who waits is told soon."""
    outwaits_start: bool = True
    """Whether it waits here for the first replica of a pool; a job does so in its queue."""
    may_come_again: bool = False
    """Whether it may be drawn again, here or elsewhere, under the same keys: no file is deleted."""

    @property
    def cost_units(self) -> float:
        """Work of all pictures; 1 is one forward at 512x512."""
        size = self.size
        return self.num_images * full_image_units(size.height, size.width, self.num_inference_steps)

    @property
    def num_pixels(self) -> int:
        """Of all pictures."""
        return self.num_images * self.size.height * self.size.width

    def to_facts(self) -> RequestFacts:
        """Say what the choice of a pool depends on."""
        return RequestFacts(
            height=self.size.height,
            width=self.size.width,
            num_inference_steps=self.num_inference_steps,
            num_images=self.num_images,
            priority=self.priority,
            timeout_s=self.timeout_s,
            pinned_path=self.pinned_path,
        )

    def to_denoise_request(
        self, index: int, encoding: PromptEncoding, *, timeout_s: float | None
    ) -> DenoiseRequest:
        """Ask for picture `index` of the call."""
        return DenoiseRequest(
            id=f"{self.id}-{index}",
            encoding=encoding,
            size=self.size,
            seed=self.seed + index,
            num_inference_steps=self.num_inference_steps,
            priority=self.priority,
            timeout_s=timeout_s,
            num_previews=self.num_previews,
            tells_every_step=self.tells_every_step,
        )


class Generation:
    """Draws and stores the pictures of a call."""

    def __init__(
        self,
        stages: Stages,
        chooser: PoolChooser,
        store: ImageStore,
        model: ServedModel,
        *,
        threads: StoreThreads,
        key_prefix: str,
    ) -> None:
        self._stages = stages
        self._chooser = chooser
        self._store = store
        self._model = model
        self._threads = threads
        self._key_prefix = key_prefix
        self._other_stages = OtherStages()

    async def draw(
        self,
        order: ImagesOrder,
        on_event: EventListener | None = None,
        on_route: RouteListener | None = None,
    ) -> DrawnImages:
        """Draw every picture of a call, or none.

        Raises:
            OverloadedError: If no pool can take it, before any work is done.
            DeadlineExceededError: If the call's time is up; what runs is cancelled.
            DependencyError: If a picture could not be stored.
            PipelineError: If a stage refused or failed.
        """
        return await self._draw_after(0.0, order, on_event, on_route)

    async def _draw_after(
        self,
        waited_s: float,
        order: ImagesOrder,
        on_event: EventListener | None,
        on_route: RouteListener | None,
    ) -> DrawnImages:
        """Draw as `draw` does a call that has waited for so long already."""
        started = time.monotonic() - waited_s
        files = CallFiles(self._store, self._threads)
        route = self._choose(order, order.timeout_s - waited_s)
        try:
            async with within_deadline(order, waited_s):
                if not order.outwaits_start:
                    await self._refuse_cold(route)
                if on_route is not None:
                    await on_route(route)
                encoded, images = await self._draw_all(order, route, files, started, on_event)
        except BaseException:
            if not order.may_come_again:
                files.drop()
            raise
        finally:
            self._chooser.drop(route)
        if not route.is_cold:
            last = max((image.times for image in images), key=lambda times: times.total_s)
            self._other_stages.observe(order.num_pixels, last.other_s)
        return DrawnImages(
            images=images, route=route, num_prompt_tokens=encoded.encoding.num_tokens
        )

    async def answer(
        self,
        order: ImagesOrder,
        to_answer: Callable[[DrawnImages], T],
        on_event: EventListener | None = None,
    ) -> T:
        """Draw a call and make its answer, in a thread; raises what `draw` raises."""
        return await asyncio.to_thread(to_answer, await self.draw(order, on_event))

    def sign(self, key: str, *, lifetime_s: int) -> str:
        """Return a URL of a stored picture."""
        return self._store.sign(key, lifetime_s=lifetime_s).url

    def _choose(self, order: ImagesOrder, seconds_left: float) -> Route:
        """Choose a pool, which answers for denoising; the estimate is of the whole call.

        What the other stages took lately turns nobody away: nobody would be left to measure by.
        """
        route = self._chooser.choose(replace(order.to_facts(), timeout_s=seconds_left))
        other_s = self._other_stages.estimate_s(order.num_pixels)
        return replace(route, estimate_s=route.estimate_s + other_s)

    async def _refuse_cold(self, route: Route) -> None:
        """Refuse what would wait for a replica; that it was asked for wakes the pool."""
        try:
            async with asyncio.timeout(0):
                await self._chooser.await_replica(route)
        except TimeoutError as exc:
            message = f"pool {route.pool} has no replica yet"
            raise OverloadedError(message, None, RETRY_AFTER_S) from exc

    async def _draw_all(
        self,
        order: ImagesOrder,
        route: Route,
        files: CallFiles,
        started: float,
        on_event: EventListener | None,
    ) -> tuple[Encoded, list[DrawnImage]]:
        encoded = await try_again(partial(self._stages.encode, order.prompt))
        await self._chooser.await_replica(route)
        self._chooser.send(route)
        images = await gather_or_cancel(
            [
                self._draw_one(order, route, files, index, encoded, started, on_event)
                for index in range(order.num_images)
            ]
        )
        return encoded, images

    async def _draw_one(
        self,
        order: ImagesOrder,
        route: Route,
        files: CallFiles,
        index: int,
        encoded: Encoded,
        started: float,
        on_event: EventListener | None,
    ) -> DrawnImage:
        deadline = started + order.timeout_s
        seed = order.seed + index
        # A call's own pictures can fill a replica, and so can all that waited for its start.
        denoised = await try_again(
            partial(self._denoise, order, route.pool, index, encoded, deadline, on_event),
            waits_for_room=order.num_images > 1 or route.is_cold,
        )
        provenance = build_provenance(order, route.path, self._model, seed, denoised.fingerprint)
        file_order = FileOrder(order.output_format, order.output_compression, provenance)
        file = await try_again(partial(self._stages.decode, denoised.result.latents, file_order))
        decoded = replace(provenance, fingerprint=file.fingerprint)
        seconds_left = deadline - time.monotonic()
        key, store_s = await self._store_file(order, files, index, decoded, file, seconds_left)
        return DrawnImage(
            key=key,
            seed=seed,
            content=file.content,
            fingerprint=file.fingerprint,
            denoiser_fingerprint=denoised.fingerprint,
            times=StageTimes(
                encode_s=encoded.run_s,
                queue_s=denoised.result.queue_s,
                denoise_s=denoised.result.run_s,
                decode_s=file.decode_s,
                file_s=file.file_s,
                store_s=store_s,
                total_s=time.monotonic() - started,
            ),
            share_s=denoised.share_s,
            peak_memory_bytes=_max_known(denoised.peak_memory_bytes, file.peak_memory_bytes),
        )

    async def _denoise(
        self,
        order: ImagesOrder,
        pool: str,
        index: int,
        encoded: Encoded,
        deadline: float,
        on_event: EventListener | None,
    ) -> Denoised:
        seconds_left = deadline - time.monotonic()
        request = order.to_denoise_request(index, encoded.encoding, timeout_s=seconds_left)
        is_followed = on_event is not None and request.is_followed
        events = self._stages.denoise(pool, request, yields_steps=is_followed)
        return await take_latents(events, None if on_event is None else partial(on_event, index))

    async def _store_file(
        self,
        order: ImagesOrder,
        files: CallFiles,
        index: int,
        provenance: ImageProvenance,
        file: ImageFile,
        seconds_left: float,
    ) -> tuple[str, float]:
        started = time.monotonic()
        prefix = "/".join(part for part in (self._key_prefix, order.owner_prefix) if part)
        key = build_key(prefix, order.accepted.date(), order.id, index, file.extension)
        put = partial(
            files.put,
            key,
            file.content,
            content_type=file.content_type,
            metadata=provenance.to_text(),
        )
        try:
            await outwait_store(put, seconds_left=seconds_left if order.outwaits_store else 0.0)
        except StoreError as exc:
            logger.error("request %s: storing %s failed: %s", order.request_id, key, exc)
            raise DependencyError("the picture could not be stored", None, RETRY_AFTER_S) from exc
        return key, time.monotonic() - started


@contextlib.asynccontextmanager
async def within_deadline(order: ImagesOrder, waited_s: float) -> AsyncIterator[None]:
    """Give what is inside the rest of a call's time.

    Raises:
        DeadlineExceededError: If it is up.
    """
    try:
        async with asyncio.timeout(order.timeout_s - waited_s):
            yield
    except TimeoutError as exc:
        raise DeadlineExceededError(
            f"timeout_s must be enough to finish, got {order.timeout_s:g}", "timeout_s"
        ) from exc


def build_provenance(
    order: ImagesOrder, path: RenderPath, model: ServedModel, seed: int, fingerprint: str
) -> ImageProvenance:
    """Collect how a picture was made."""
    return ImageProvenance(
        software=SOFTWARE,
        request_id=order.request_id,
        model=model.name,
        model_revision=model.revision,
        seed=seed,
        size=order.size,
        num_inference_steps=order.num_inference_steps,
        path=path,
        fingerprint=fingerprint,
    )


def _max_known(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)
