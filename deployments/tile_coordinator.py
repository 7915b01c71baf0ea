"""The tiled path: one coordinator steps a canvas, and a pool's replicas predict its tiles.

The coordinator holds no GPU, so it can never starve the replicas that it waits for.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from cluster.spans import Carrier, to_carrier
from cluster.telemetry import ATTR_PATH, ATTR_SHARE_S, ATTR_SIZE, ATTR_STEPS
from deployments.concurrency import gather_or_cancel
from deployments.retries import try_again
from deployments.routing.predictions import step_units
from deployments.stage_telemetry import StageTelemetry
from deployments.stages import Denoised, TileVelocity, take_latents
from pipeline.denoising.positions import PositionGrid
from pipeline.denoising.preview import LatentPreview
from pipeline.denoising.tiled import TiledRun, TileItem
from pipeline.denoising.work import VelocityRequest
from pipeline.errors import DeadlineError
from pipeline.request import DenoiseRequest, DenoiseResult, RenderPath, StepEvent
from pipeline.schedule import Schedule
from pipeline.tiled_passes import DenoisePass, TilingOptions

PredictTile = Callable[[VelocityRequest, Carrier], Awaitable[TileVelocity]]
"""Sends one tile to some replica of the pool, with the trace that it belongs to."""


@dataclass(frozen=True)
class TiledSettings:
    """What a coordinator needs of the model and of the operator."""

    options: TilingOptions
    preview: LatentPreview
    schedule_of: Callable[[int], Schedule]


class TileCoordinatorDeployment:
    """Draws as `DenoiserDeployment` does, tile by tile over the replicas of a pool."""

    def __init__(
        self,
        load: Callable[[], TiledSettings],
        predict_tile: PredictTile,
        telemetry: StageTelemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or StageTelemetry("denoise")
        self._settings = self._telemetry.start(load)
        self._predict_tile = predict_tile

    async def denoise(
        self, request: DenoiseRequest, *, yields_steps: bool, trace: Carrier | None = None
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        """Yield a `StepEvent` a step, if asked to, and the latents at the end."""
        started = time.monotonic()
        settings = self._settings
        attributes: dict[str, str | int] = {
            ATTR_PATH: RenderPath.TILED.value,
            ATTR_SIZE: str(request.size),
            ATTR_STEPS: request.num_inference_steps,
        }
        seen: dict[str, str] = {}
        share_s, peaks = 0.0, set[int]()
        # A span ends before the last yield: there, whoever has the latents closes the generator.
        with self._telemetry.span(trace, attributes, has_more=True) as stage:
            run = await asyncio.to_thread(
                TiledRun, request, settings.options, settings.preview.draw, settings.schedule_of
            )
            step, sent = 0, to_carrier(stage.span)
            later_units = plan_later_units(run.passes)
            while not run.is_done:
                predicted = await self._predict_step(
                    request, run, step, later_units[step], started, sent
                )
                seen |= {tile.fingerprint: tile.replica for tile in predicted}
                share_s += sum(tile.share_s for tile in predicted)
                peaks |= {tile.peak_memory_bytes for tile in predicted if tile.peak_memory_bytes}
                velocities = [tile.velocity[0] for tile in predicted]
                event = await asyncio.to_thread(run.take, velocities)
                step += 1
                if yields_steps and request.tells(event):
                    yield event
            run_s = time.monotonic() - started
            peak_memory_bytes = max(peaks, default=None)
            stage.took(0.0, run_s, peak_memory_bytes)
            stage.span.set_attribute(ATTR_SHARE_S, share_s)
        result = DenoiseResult(run.latents[None], 0.0, run_s)
        yield Denoised(
            result,
            "+".join(sorted(seen)),
            "+".join(sorted(set(seen.values()))),
            share_s,
            peak_memory_bytes,
        )

    async def denoise_silently(
        self, request: DenoiseRequest, trace: Carrier | None = None
    ) -> Denoised:
        """Return the latents alone."""
        return await take_latents(self.denoise(request, yields_steps=False, trace=trace))

    async def _predict_step(
        self,
        request: DenoiseRequest,
        run: TiledRun,
        step: int,
        later_units: float,
        started: float,
        sent: Carrier,
    ) -> list[TileVelocity]:
        items = await asyncio.to_thread(run.next_items)

        async def predict(index: int) -> TileVelocity:
            left_s, name = _seconds_left(request, started), f"{request.id}-{step}-{index}"
            call = _to_call(request, items[index], name, left_s, later_units)
            return await self._predict_tile(call, sent)

        # What steps were drawn would be drawn once more, were a full pool not waited for.
        waits_for_room = step > 0
        return await gather_or_cancel(
            [
                try_again(partial(predict, index), waits_for_room=waits_for_room)
                for index in range(len(items))
            ]
        )


def plan_later_units(passes: Sequence[DenoisePass]) -> list[float]:
    """Return, for every step, each of its tiles' part of what the steps after it cost."""
    plans = [one.plan for one in passes for _ in one.steps]
    units = [step_units(plan) for plan in plans]
    return [sum(units[step + 1 :]) / len(plan.tiles) for step, plan in enumerate(plans)]


def _to_call(
    request: DenoiseRequest,
    item: TileItem,
    call_id: str,
    timeout_s: float | None,
    later_units: float,
) -> VelocityRequest:
    row, column = item.position_origin
    return VelocityRequest(
        id=call_id,
        encoding=request.encoding,
        latents=item.latents[None],
        model_time=item.model_time,
        positions=PositionGrid(row, column),
        priority=request.priority,
        timeout_s=timeout_s,
        later_units=later_units,
    )


def _seconds_left(request: DenoiseRequest, started: float) -> float | None:
    if request.timeout_s is None:
        return None
    left_s = request.timeout_s - (time.monotonic() - started)
    if left_s <= 0:
        raise DeadlineError(f"a picture must be done within {request.timeout_s:g} s")
    return left_s
