"""Generation that answers a call with a given seed by the pictures that it had before."""

import asyncio
import time
from typing import Any, Final

from cluster.errors import ImageNotFoundError, StoreError
from cluster.metrics import record
from cluster.telemetry import CACHE_LOOKUPS
from deployments.concurrency import gather_or_cancel
from deployments.drawn_images import DrawnImage, DrawnImages, StageTimes
from deployments.generation import (
    EventListener,
    Generation,
    ImagesOrder,
    RouteListener,
    within_deadline,
)
from deployments.log import logger
from deployments.pool_choice import Route
from deployments.result_cache import CachedResult, ResultCache, ResultFacts

CACHE: Final = "result-cache"
"""Stands where a pool's name would, in the route of a call that was not drawn."""
_LOOK_UP_SHARE: Final = 0.5
"""Of a call's time: a look-up that takes longer is given up, and what is left is for drawing."""


class CachedGeneration(Generation):
    """Looks before it draws, and before a pool is chosen: a found picture needs no GPU.

    A call is drawn if its seed was not given, if it wants previews on the way, or if one of its
    pictures is not found, has left the store or cannot be read in time.
    """

    def __init__(
        self, *stages: Any, results: ResultCache, other_stages: str, **options: Any
    ) -> None:
        super().__init__(*stages, **options)
        self._results = results
        self._other_stages_name = other_stages

    async def draw(
        self,
        order: ImagesOrder,
        on_event: EventListener | None = None,
        on_route: RouteListener | None = None,
    ) -> DrawnImages:
        """See `Generation.draw`."""
        if not order.is_seed_given or order.num_previews:
            return await super().draw(order, on_event, on_route)
        started = time.monotonic()
        pictures = [self._to_facts(order, index) for index in range(order.num_images)]
        drawn = await self._look_up(order, pictures)
        if drawn is not None:
            self._results.counts.num_hits += 1
            record(CACHE_LOOKUPS, cache="result", result="hit")
            if on_route is not None:
                async with within_deadline(order, time.monotonic() - started):
                    await on_route(drawn.route)
            logger.info("request %s: found in the result cache", order.request_id)
            return drawn
        self._results.counts.num_misses += 1
        record(CACHE_LOOKUPS, cache="result", result="miss")
        drawn = await self._draw_after(time.monotonic() - started, order, on_event, on_route)
        for facts, image in zip(pictures, drawn.images, strict=True):
            result = CachedResult(
                image.key,
                image.fingerprint,
                image.denoiser_fingerprint,
                drawn.route.path,
                drawn.num_prompt_tokens,
            )
            await self._results.add(facts, result)
        return drawn

    def _to_facts(self, order: ImagesOrder, index: int) -> ResultFacts:
        return ResultFacts(
            model_revision=self._model.revision,
            prompt=order.prompt,
            seed=order.seed + index,
            size=order.size,
            num_inference_steps=order.num_inference_steps,
            output_format=order.output_format.value,
            output_compression=order.output_compression,
            other_stages=self._other_stages_name,
            owner_prefix=order.owner_prefix,
        )

    async def _look_up(self, order: ImagesOrder, pictures: list[ResultFacts]) -> DrawnImages | None:
        try:
            async with asyncio.timeout(_LOOK_UP_SHARE * order.timeout_s):
                found = await self._results.find(pictures, order.pinned_path)
                return await self._read(order, found) if found else None
        except ImageNotFoundError:
            return None
        except (StoreError, TimeoutError) as exc:
            reason = exc if isinstance(exc, StoreError) else "it takes too long"
            logger.warning(
                "request %s: a cached result cannot be read: %s", order.request_id, reason
            )
            return None

    async def _read(self, order: ImagesOrder, found: list[CachedResult]) -> DrawnImages:
        started = time.monotonic()
        files = await gather_or_cancel(
            [self._threads.call(self._store.get, result.key) for result in found]
        )
        read_s = time.monotonic() - started
        times = StageTimes(0.0, 0.0, 0.0, 0.0, 0.0, store_s=read_s, total_s=read_s)
        return DrawnImages(
            images=[
                DrawnImage(
                    result.key,
                    order.seed + index,
                    file.content,
                    result.fingerprint,
                    result.denoiser_fingerprint,
                    times,
                )
                for index, (result, file) in enumerate(zip(found, files, strict=True))
            ],
            route=Route(CACHE, found[0].path, 0.0, "found in the result cache"),
            num_prompt_tokens=found[0].num_prompt_tokens,
        )
