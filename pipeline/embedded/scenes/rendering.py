"""Draw batches of scenes as tensors, on any device: no loop over pictures, no file, no font."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.embedded.scenes.atlas import ATLAS_EXTENT, build_atlas, kind_index
from pipeline.embedded.scenes.layout import Placement
from pipeline.embedded.scenes.scene import Background, Scene, Thing
from pipeline.embedded.scenes.vocabulary import GLYPH_PITCH, PALETTE, Backdrop, Colour

MAX_MARKS: Final = 6
"""Most outlines in a scene: a word of four and two things."""

MARK_WIDTH: Final = 7
"""kind, x, y, radius in pixels, and red, green, blue of 0 to 1; kind -1 is an empty place."""

BACKGROUND_WIDTH: Final = 7
"""Place of the backdrop in `Backdrop`, and two colours."""

_BACKDROPS: Final = tuple(Backdrop)
_STRIPES: Final = 6
"""Stripes across the shorter side; squares of a check are as wide."""


@dataclass(frozen=True)
class Drawing:
    """A batch of scenes as numbers."""

    marks: NDArray[np.float32]
    """[B, MAX_MARKS, MARK_WIDTH], painted in order."""
    backgrounds: NDArray[np.float32]
    """[B, BACKGROUND_WIDTH]."""


def describe(scenes: Sequence[Scene], placements: Sequence[Sequence[Placement]]) -> Drawing:
    """Turn placed scenes into the numbers that `render` paints."""
    marks = np.full((len(scenes), MAX_MARKS, MARK_WIDTH), -1, dtype=np.float32)
    for row, scene, placed in zip(marks, scenes, placements, strict=True):
        listed = [mark for pair in _painted_order(scene, placed) for mark in _marks(*pair)]
        row[: len(listed)] = listed
    backgrounds = np.array([_background(scene.background) for scene in scenes], dtype=np.float32)
    return Drawing(marks, backgrounds)


def _painted_order(scene: Scene, placed: Sequence[Placement]) -> list[tuple[Thing, Placement]]:
    """Order from the largest to the smallest, so that what is inside lies on top."""
    pairs = zip(scene.things, placed, strict=True)
    return sorted(pairs, key=lambda pair: -pair[1].radius)


def _marks(thing: Thing, at: Placement) -> list[tuple[float, ...]]:
    kinds = [thing.kind] if thing.is_shape else list(thing.kind)
    pitch = 2 * at.radius * GLYPH_PITCH
    start = at.x - pitch * (len(kinds) - 1) / 2
    rgb = _rgb(thing.colour)
    return [
        (kind_index(kind), start + i * pitch, at.y, at.radius, *rgb) for i, kind in enumerate(kinds)
    ]


def _background(background: Background) -> tuple[float, ...]:
    first, last = background.colours[0], background.colours[-1]
    return (_BACKDROPS.index(background.backdrop), *_rgb(first), *_rgb(last))


def _rgb(colour: Colour) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in PALETTE[colour])


def render(drawing: Drawing, height: int, width: int, device: torch.device) -> Tensor:
    """Paint a batch.

    Returns:
        [B, 3, height, width] float32 in [-1, 1], edges antialiased over one pixel.
    """
    counts = (drawing.marks[:, :, 0] >= 0).sum(axis=1)
    order = np.argsort(-counts, kind="stable")
    marks = torch.from_numpy(drawing.marks[order]).to(device)
    backgrounds = torch.from_numpy(drawing.backgrounds[order]).to(device)
    atlas = _atlas(device)
    x = torch.arange(width, device=device) + 0.5
    y = torch.arange(height, device=device) + 0.5
    canvas = _paint_backgrounds(backgrounds, x, y)
    for place in range(int(counts.max())):
        # Pictures with the most marks come first, so that those with a mark left are a prefix.
        active = int((counts > place).sum())
        row = marks[:active, place]
        cover = _coverage(row, atlas, x, y)
        colour = row[:, 4:, None, None]
        canvas[:active] += cover * (colour - canvas[:active])
    painted = torch.empty_like(canvas)
    painted[torch.from_numpy(order).to(device)] = canvas
    return painted * 2 - 1


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Turn [B, 3, H, W] of [-1, 1] into [B, H, W, 3] bytes."""
    bytes_ = (images.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = bytes_.permute(0, 2, 3, 1).cpu().numpy()
    return pixels


@cache
def _atlas(device: torch.device) -> Tensor:
    return torch.from_numpy(build_atlas()).to(device)


def _coverage(marks: Tensor, atlas: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return [B, 1, H, W]: how much of each pixel the mark covers."""
    textures = atlas[marks[:, 0].long()][:, None]
    scale = marks[:, 3] * ATLAS_EXTENT
    u = (x[None] - marks[:, 1, None]) / scale[:, None]
    v = (y[None] - marks[:, 2, None]) / scale[:, None]
    grid = torch.stack(
        [
            u[:, None, :].expand(-1, len(y), -1),
            v[:, :, None].expand(-1, -1, len(x)),
        ],
        dim=-1,
    )
    distance = F.grid_sample(textures, grid, padding_mode="border", align_corners=False)
    return (0.5 - distance * marks[:, 3, None, None, None]).clamp(0, 1)


def _paint_backgrounds(backgrounds: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height, width = len(y), len(x)
    period = min(height, width) / _STRIPES
    odd_x = ((x / period).floor() % 2).expand(height, width)
    odd_y = ((y / period).floor() % 2)[:, None].expand(height, width)
    ramp = (y / height)[:, None].expand(height, width)
    weights = {
        Backdrop.PLAIN: torch.zeros_like(ramp),
        Backdrop.STRIPED: odd_x,
        Backdrop.CHECKED: (odd_x + odd_y) % 2,
        Backdrop.GRADIENT: ramp,
    }
    table = torch.stack([weights[backdrop] for backdrop in _BACKDROPS])
    weight = table[backgrounds[:, 0].long()][:, None]
    first, last = backgrounds[:, 1:4, None, None], backgrounds[:, 4:7, None, None]
    return first + weight * (last - first)
