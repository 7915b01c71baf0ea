"""Denoise one picture tile by tile: every step, tiles are predicted apart and blended.

`TiledRun` decides: it says which tiles the next step needs and steps the canvas with what comes
back. It runs no transformer and waits for nobody, so what drives it may be a coordinator on an
event loop, over a pool of replicas with retries, or a single process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.blending import TileBlender
from pipeline.denoising.preview import choose_preview_steps, previews_may_fail
from pipeline.errors import NumericalError
from pipeline.latents import draw_noise
from pipeline.request import DenoiseRequest, StepEvent
from pipeline.schedule import Schedule, build_schedule
from pipeline.tiled_passes import TilingOptions, plan_passes

BASE_SEED_BIT: Final = 1 << 31
"""Flipped in the seed of the base pass, whose noise must not be the canvas's, rearranged.

A bit that torch's generator on the CPU reads: it takes the lower 32 of a seed.
"""


@dataclass(frozen=True)
class TileItem:
    """One tile at one step, as a step loop takes it."""

    latents: Tensor = field(compare=False)
    """[16, h, w] float32 on the CPU."""
    model_time: float
    position_origin: tuple[int, int]
    """Row and column, in patches, at which the tile's positions begin."""
    caption_key: str
    """Names the caption state that was prepared for the request."""


class TiledRun:
    """One picture on its way: `next_items`, then `take` their velocities, until `is_done`."""

    def __init__(
        self,
        request: DenoiseRequest,
        options: TilingOptions | None = None,
        draw_preview: Callable[[Tensor], Tensor] | None = None,
        schedule_of: Callable[[int], Schedule] = build_schedule,
    ) -> None:
        self._request = request
        self._options = options or TilingOptions()
        self._draw_preview = draw_preview
        self._schedule = schedule_of(request.num_inference_steps)
        self.passes = plan_passes(request.size, self._schedule, self._options)
        self._blenders = [TileBlender(one.plan) for one in self.passes]
        self._turns = [(i, step) for i, one in enumerate(self.passes) for step in one.steps]
        self._num_done = 0
        is_based = len(self.passes) > 1
        seed = request.seed ^ BASE_SEED_BIT if is_based else request.seed
        self._latents = draw_noise(self.passes[0].size, seed=seed)[0]

    @property
    def is_done(self) -> bool:
        """Whether every step is taken."""
        return self._num_done == len(self._turns)

    @property
    def latents(self) -> Tensor:
        """The canvas as it is, [16, h, w] float32 on the CPU."""
        return self._latents

    def next_items(self) -> list[TileItem]:
        """Return the tiles of the next step, the same at every call until `take`."""
        index, step = self._turns[self._num_done]
        plan = self.passes[index].plan
        return [
            TileItem(
                latents=self._latents[tile.region].contiguous(),
                model_time=self._schedule.model_time(step),
                position_origin=plan.position_origin(tile, self._options.positions),
                caption_key=self._request.id,
            )
            for tile in plan.tiles
        ]

    def take(self, velocities: Sequence[Tensor]) -> StepEvent:
        """Blend the velocities of `next_items` and step the canvas.

        Raises:
            NumericalError: If a velocity is not finite.
        """
        index, step = self._turns[self._num_done]
        velocity = self._blenders[index].blend(velocities)
        if not bool(torch.isfinite(velocity).all()):
            raise NumericalError(f"velocities must be finite, got others at step {step}")
        x0 = self._latents - self._schedule.sigmas[step] * velocity
        self._num_done += 1
        if not self.is_done and self._turns[self._num_done][0] != index:
            self._latents, sigma = self._restart(x0)
        else:
            self._latents = self._schedule.advance(self._latents, velocity, step)
            sigma = self._schedule.sigmas[step + 1]
        return StepEvent(
            step=self._num_done,
            num_inference_steps=len(self._turns),
            sigma=sigma,
            preview=self._preview(x0),
        )

    def _restart(self, x0: Tensor) -> tuple[Tensor, float]:
        """Noise the upsampled base to the sigma at which tiles take over."""
        sigma = self._schedule.sigmas[self._turns[self._num_done][1]]
        noise = draw_noise(self._request.size, seed=self._request.seed)[0]
        return (1 - sigma) * self._upsample(x0) + sigma * noise, sigma

    def _upsample(self, latents: Tensor) -> Tensor:
        size = self._request.size
        shape = (size.latent_height, size.latent_width)
        return F.interpolate(latents[None], size=shape, mode="bicubic", align_corners=False)[0]

    def _preview(self, x0: Tensor) -> Tensor | None:
        wanted = choose_preview_steps(len(self._turns), self._request.num_previews)
        if self._draw_preview is None or self._num_done not in wanted:
            return None
        with previews_may_fail(self._request.id):
            return self._draw_preview(self._upsample(x0))
        return None
