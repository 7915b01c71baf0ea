"""What tiles cost: FLOP of the true transformer, 32 blocks of 3840 by 30 heads."""

import math

from pipeline.tiled_passes import DenoisePass
from pipeline.tiling import TilePlan

PARAMETERS_OF_A_BLOCK = 4 * 3840**2 + 3 * 3840 * 10240


def forward_flop(num_image_tokens: int, num_caption_tokens: int = 64) -> int:
    """FLOP of one forward; the model pads image tokens to a multiple of 32."""
    tokens = math.ceil(num_image_tokens / 32) * 32 + num_caption_tokens
    return 32 * (2 * PARAMETERS_OF_A_BLOCK * tokens + 4 * 3840 * tokens**2)


def step_flop(plan: TilePlan) -> int:
    """FLOP of one step over all tiles of a plan."""
    return len(plan.tiles) * forward_flop(plan.tile_height * plan.tile_width // 4)


def passes_flop(passes: tuple[DenoisePass, ...]) -> int:
    """FLOP of a whole run."""
    return sum(len(one.steps) * step_flop(one.plan) for one in passes)
