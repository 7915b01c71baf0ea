"""The work list of a tiled decode: which latents each tile turns into pixels. No tensor here.

Cores part the latent plane, so every pixel and every term of a statistic belongs to one tile. A
window is a core with a halo around it, cut at the edges of the picture.
"""

import math
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Self


@dataclass(frozen=True)
class Margins:
    """Pixels around a core, at the resolution of the tensor that has them."""

    top: int
    left: int
    bottom: int
    right: int

    def limited(self, pixels: int) -> Self:
        """Return margins of at most `pixels`."""
        sides = (self.top, self.left, self.bottom, self.right)
        return type(self)(*(min(side, pixels) for side in sides))

    def doubled(self) -> Self:
        """Return the margins at twice the resolution."""
        return type(self)(2 * self.top, 2 * self.left, 2 * self.bottom, 2 * self.right)


@dataclass(frozen=True)
class DecodeTile:
    """A core of latents, and how much lies around it in its window."""

    row: int
    column: int
    height: int
    width: int
    margins: Margins

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the core and its halo, in latents."""
        return (
            slice(self.row - self.margins.top, self.row + self.height + self.margins.bottom),
            slice(self.column - self.margins.left, self.column + self.width + self.margins.right),
        )

    def core(self, scale: int) -> tuple[slice, slice]:
        """Rows and columns of the core at `scale` times the latents' resolution."""
        return (
            slice(self.row * scale, (self.row + self.height) * scale),
            slice(self.column * scale, (self.column + self.width) * scale),
        )


def plan_decode_tiles(
    height: int, width: int, *, tile_size: int, halo: int
) -> tuple[DecodeTile, ...]:
    """Part `height` x `width` latents into even cores of at most `tile_size`, row by row."""
    return tuple(
        DecodeTile(
            row=top,
            column=left,
            height=bottom - top,
            width=right - left,
            margins=Margins(
                min(halo, top),
                min(halo, left),
                min(halo, height - bottom),
                min(halo, width - right),
            ),
        )
        for (top, bottom), (left, right) in product(
            _part(height, tile_size), _part(width, tile_size)
        )
    )


def _part(length: int, tile_size: int) -> list[tuple[int, int]]:
    count = math.ceil(length / tile_size)
    return list(pairwise(index * length // count for index in range(count + 1)))
