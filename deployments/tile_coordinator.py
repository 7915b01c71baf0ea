"""The tiled path: one coordinator steps a canvas, and a pool's replicas predict its tiles.

The coordinator holds no GPU, so it can never starve the replicas that it waits for.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from deployments.concurrency import gather_or_cancel
from deployments.retries import try_again
from deployments.stages import Denoised, TileVelocity
from pipeline.denoising.positions import PositionGrid
from pipeline.denoising.preview import LatentPreview
from pipeline.denoising.tiled import TiledRun, TileItem
from pipeline.denoising.work import VelocityRequest
from pipeline.errors import DeadlineError
from pipeline.request import DenoiseRequest, DenoiseResult, StepEvent
from pipeline.schedule import Schedule
from pipeline.tiled_passes import TilingOptions

PredictTile = Callable[[VelocityRequest], Awaitable[TileVelocity]]
"""Sends one tile to some replica of the pool."""


@dataclass(frozen=True)
class TiledSettings:
    """What a coordinator needs of the model and of the operator."""

    options: TilingOptions
    preview: LatentPreview
    schedule_of: Callable[[int], Schedule]


class TileCoordinatorDeployment:
    """Draws as `DenoiserDeployment` does, tile by tile over the replicas of a pool."""

    def __init__(self, load: Callable[[], TiledSettings], predict_tile: PredictTile) -> None:
        self._settings = load()
        self._predict_tile = predict_tile

    async def denoise(
        self, request: DenoiseRequest, *, yields_steps: bool
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        """Yield a `StepEvent` a step, if asked to, and the latents at the end."""
        started = time.monotonic()
        settings = self._settings
        run = await asyncio.to_thread(
            TiledRun, request, settings.options, settings.preview.draw, settings.schedule_of
        )
        seen: dict[str, str] = {}
        step = 0
        while not run.is_done:
            items = await asyncio.to_thread(run.next_items)
            seconds_left = _seconds_left(request, started)
            calls = [
                self._predict(request, item, f"{request.id}-{step}-{index}", seconds_left)
                for index, item in enumerate(items)
            ]
            predicted = await gather_or_cancel(calls)
            seen |= {tile.fingerprint: tile.replica for tile in predicted}
            velocities = [tile.velocity[0] for tile in predicted]
            event = await asyncio.to_thread(run.take, velocities)
            step += 1
            if yields_steps:
                yield event
        result = DenoiseResult(run.latents[None], 0.0, time.monotonic() - started)
        yield Denoised(result, "+".join(sorted(seen)), "+".join(sorted(set(seen.values()))))

    async def _predict(
        self, request: DenoiseRequest, item: TileItem, call_id: str, timeout_s: float | None
    ) -> TileVelocity:
        row, column = item.position_origin
        call = VelocityRequest(
            id=call_id,
            encoding=request.encoding,
            latents=item.latents[None],
            model_time=item.model_time,
            positions=PositionGrid(row, column),
            priority=request.priority,
            timeout_s=timeout_s,
        )
        return await try_again(partial(self._predict_tile, call))


def _seconds_left(request: DenoiseRequest, started: float) -> float | None:
    if request.timeout_s is None:
        return None
    left_s = request.timeout_s - (time.monotonic() - started)
    if left_s <= 0:
        raise DeadlineError(f"a picture must be done within {request.timeout_s:g} s")
    return left_s
