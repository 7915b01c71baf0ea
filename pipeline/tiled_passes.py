"""Plan which canvases a tiled picture is drawn on, and which of its steps each one takes.

Tiles alone repeat the subject, so a picture of several tiles begins with a base pass: a small whole
picture, whose predicted `x0 = x - sigma v` is upsampled, noised again to one of the request's own
sigmas, `x_s = (1 - s) x0 + s noise`, and only then continued in tiles. No tensor here.
"""

from dataclasses import dataclass
from typing import Final

from pipeline.errors import InvalidRequestError
from pipeline.request import PATCH_SIZE, ImageSize
from pipeline.schedule import Schedule
from pipeline.tiling import TilePlan, TilePositions, plan_tiles, plan_whole, shrink_to_area

MIN_START_SIGMA: Final = 0.5
"""Below it too little noise is left to hide that latents were upsampled bicubically."""

MAX_BASE_PIXELS: Final = 1024 * 1024


@dataclass(frozen=True)
class TilingOptions:
    """How the tiled path draws. `tile_size` and `overlap` are latent pixels.

    Raises:
        ValueError: If a setting is out of range.
    """

    tile_size: int = 96
    overlap: int = 16
    positions: TilePositions = TilePositions.TRUE
    start_sigma: float = 0.5
    """Where tiles take over from the base pass: the nearest sigma of the request. 1 is no base."""
    base_steps: int | None = None
    """Steps of the base pass, at most the request's own; None is those above `start_sigma`."""
    base_max_pixels: int = 768 * 768

    def __post_init__(self) -> None:
        plan_tiles(2, 2, tile_size=self.tile_size, overlap=self.overlap)
        if not MIN_START_SIGMA <= self.start_sigma <= 1:
            raise ValueError(
                f"start_sigma must be in [{MIN_START_SIGMA}, 1], got {self.start_sigma}"
            )
        if self.base_steps is not None and self.base_steps < 1:
            raise ValueError(f"base_steps must be at least 1, got {self.base_steps}")
        if not 0 < self.base_max_pixels <= MAX_BASE_PIXELS:
            raise ValueError(
                f"base_max_pixels must be in (0, {MAX_BASE_PIXELS}], got {self.base_max_pixels}"
            )


@dataclass(frozen=True)
class DenoisePass:
    """Steps of the schedule that are run on one canvas."""

    size: ImageSize
    plan: TilePlan
    steps: range


def plan_passes(
    size: ImageSize, schedule: Schedule, options: TilingOptions
) -> tuple[DenoisePass, ...]:
    """Plan the base pass, where there is one, and the tiled pass after it.

    Raises:
        InvalidRequestError: If the picture is too long and narrow for a base within its area.
    """
    plan = plan_tiles(
        size.latent_height, size.latent_width, tile_size=options.tile_size, overlap=options.overlap
    )
    num_steps = schedule.num_inference_steps
    start = choose_start_step(schedule, options.start_sigma) if len(plan.tiles) > 1 else 0
    tiled = DenoisePass(size, plan, range(start, num_steps))
    if start == 0:
        return (tiled,)
    base_size = shrink_to_area(size, max_pixels=options.base_max_pixels)
    if base_size is None:
        raise InvalidRequestError(
            f"size must have a base of at most {options.base_max_pixels} pixels, got {size}"
        )
    base_steps = min(options.base_steps or start, num_steps)
    return DenoisePass(base_size, plan_whole(base_size), range(base_steps)), tiled


def largest_forward(passes: tuple[DenoisePass, ...]) -> int:
    """Return the image tokens of the largest forward, which decides the peak of memory."""
    return max(one.plan.tile_height * one.plan.tile_width for one in passes) // PATCH_SIZE**2


def choose_start_step(schedule: Schedule, start_sigma: float) -> int:
    """Choose the step whose sigma is nearest to `start_sigma`, of those that hide upsampling."""
    steps = [
        step
        for step in range(schedule.num_inference_steps)
        if schedule.sigmas[step] >= MIN_START_SIGMA
    ]
    return min(steps, key=lambda step: abs(schedule.sigmas[step] - start_sigma))
