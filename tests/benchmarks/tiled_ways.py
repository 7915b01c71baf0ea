"""One prompt drawn whole and tile by tile, with the real stages in this process."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from loop_executor import LoopTileExecutor
from numpy.typing import NDArray
from tiled_denoiser import TiledDenoiser

from pipeline.denoising.loading import load_step_loop
from pipeline.denoising.options import StepLoopOptions
from pipeline.device import choose_device
from pipeline.networks import load_vae
from pipeline.request import LATENT_SCALE, DenoiseRequest, ImageSize, PromptEncoding
from pipeline.schedule import build_schedule
from pipeline.text_encoder import load_text_encoder
from pipeline.tiled_passes import TilingOptions
from pipeline.tiling import TilePlan, TilePositions, plan_tiles
from pipeline.vae_decoder import FullImageVaeDecoder
from pipeline.weights import resolve_weights

Pixels = NDArray[np.uint8]

TILE_SIZE = 32
"""Latent pixels: 256 image pixels, the embedded model's own size."""
BLENDED = TilingOptions(tile_size=TILE_SIZE, overlap=8, start_sigma=1, base_max_pixels=256 * 256)
NAIVE = dataclasses.replace(BLENDED, overlap=0, positions=TilePositions.LOCAL)
WHOLE = TilingOptions(tile_size=4096)


def with_base(
    start_sigma: float, positions: TilePositions, base_steps: int | None = None
) -> TilingOptions:
    """Tiles that continue a base pass of 256x256."""
    return dataclasses.replace(
        BLENDED, start_sigma=start_sigma, positions=positions, base_steps=base_steps
    )


@dataclass(frozen=True)
class Drawing:
    """What is drawn, the way aside."""

    encoding: PromptEncoding
    size: ImageSize
    seed: int
    num_inference_steps: int = 8


class WayDrawer:
    """Draws in any way with one model."""

    def __init__(self, model: str) -> None:
        weights = resolve_weights(model)
        compute = choose_device()
        self.text_encoder = load_text_encoder(weights, compute)
        self._executor = LoopTileExecutor(load_step_loop(weights, compute, StepLoopOptions()))
        vae = load_vae(weights, device=compute.device, dtype=compute.dtype)
        self._decoder = FullImageVaeDecoder(vae)
        self._schedule_of = partial(build_schedule, shift=weights.shift)

    def draw(self, drawing: Drawing, options: TilingOptions) -> Pixels:
        """Return [H, W, 3] sRGB bytes."""
        request = DenoiseRequest(
            "benchmark",
            drawing.encoding,
            drawing.size,
            seed=drawing.seed,
            num_inference_steps=drawing.num_inference_steps,
        )
        with torch.inference_mode():
            result = TiledDenoiser(self._executor, options).denoise(request)
            pixels: Pixels = self._decoder.decode(result.latents).numpy()
        return pixels


def plan_of(size: ImageSize, options: TilingOptions) -> TilePlan:
    """Return the tiles of a way."""
    return plan_tiles(
        size.latent_height,
        size.latent_width,
        tile_size=options.tile_size,
        overlap=options.overlap,
    )


def borders_of(plan: TilePlan) -> tuple[list[int], list[int]]:
    """Rows and columns, in image pixels, at which a tile begins or ends inside the picture."""
    return (
        _edges(plan.rows, plan.tile_height),
        _edges(plan.columns, plan.tile_width),
    )


def border_gradient(pixels: Pixels, borders: tuple[list[int], list[int]]) -> float:
    """Mean absolute step across the borders, in levels of 255."""
    rows, columns = borders
    levels = pixels.astype(np.float32)
    down = np.abs(levels[rows] - levels[[row - 1 for row in rows]]).mean()
    across = np.abs(levels[:, columns] - levels[:, [column - 1 for column in columns]]).mean()
    return float(down + across) / 2


def excess_at_borders(pixels: Pixels, borders: tuple[list[int], list[int]]) -> tuple[float, float]:
    """The gradient across the borders, and the mean of that 8 to 24 pixels beside them."""
    beside = [offset for reach in (8, 12, 16, 20, 24) for offset in (-reach, reach)]
    rows, columns = borders
    nearby = [
        border_gradient(pixels, ([row + offset for row in rows], [x + offset for x in columns]))
        for offset in beside
    ]
    return border_gradient(pixels, borders), sum(nearby) / len(nearby)


def _edges(origins: tuple[int, ...], side: int) -> list[int]:
    inner = {second for _, second in pairwise(origins)}
    inner |= {first + side for first, _ in pairwise(origins)}
    return [edge * LATENT_SCALE for edge in sorted(inner)]
