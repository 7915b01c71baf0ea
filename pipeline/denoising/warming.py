"""What a replica runs before it takes work: kernels are compiled and graphs are recorded by use."""

from collections.abc import Sequence
from typing import Final

import torch

from pipeline.denoising.engine import StepLoop
from pipeline.request import (
    LATENT_SCALE,
    DenoiseRequest,
    ImageSize,
    PromptEncoding,
    RenderPath,
)
from pipeline.schedule import Schedule
from pipeline.tiled_passes import TilingOptions, plan_passes

_NUM_TOKENS: Final = 64
_NUM_STEPS: Final = 8
"""The first ones are run and recorded; the last ones show how fast the replica is."""


def plan_warm_up(
    sizes: Sequence[ImageSize], path: RenderPath, tiling: TilingOptions, schedule: Schedule
) -> tuple[ImageSize, ...]:
    """Return the sizes of the forwards that pictures of these sizes are made of, each once.

    On the tiled path they are those of the base pass and of a tile.

    Raises:
        InvalidRequestError: If a picture is too long and narrow for a base pass.
    """
    if path is RenderPath.FULL_IMAGE:
        return tuple(dict.fromkeys(sizes))
    plans = [one.plan for size in sizes for one in plan_passes(size, schedule, tiling)]
    tiles = (
        ImageSize(plan.tile_height * LATENT_SCALE, plan.tile_width * LATENT_SCALE) for plan in plans
    )
    return tuple(dict.fromkeys(tiles))


def warm_up(loop: StepLoop, sizes: Sequence[ImageSize], *, caption_dim: int) -> None:
    """Draw a picture of noise of each size, and throw it away.

    Raises:
        PipelineError: If one cannot be drawn: the replica could not serve it either.
    """
    generator = torch.Generator().manual_seed(0)
    encoding = PromptEncoding(torch.randn(_NUM_TOKENS, caption_dim, generator=generator))
    for size in sizes:
        loop.denoise(
            DenoiseRequest(
                f"warm-up-{size}", encoding, size, seed=0, num_inference_steps=_NUM_STEPS
            )
        )
