"""Cover a latent plane with overlapping tiles of one shape. Decides; computes no tensor.

Unsuffixed lengths are latent pixels. A row of tiles is spread evenly from edge to edge, so that
every tile of a plan has the same shape and one compiled graph serves them all. Tiles begin on a
patch, that is on an even latent pixel.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Final

from pipeline.request import PATCH_SIZE, SIZE_MULTIPLE, ImageSize

TILE_STEP: Final = 8
"""Sides of tiles are multiples of this, so that few shapes are compiled."""

TRAINED_PATCHES: Final = 128
"""Patches on the longest side the transformer was trained on (2048 image pixels)."""


class TilePositions(StrEnum):
    """Where the transformer is told that a tile lies."""

    TRUE = "true"
    """At its place in the whole picture."""
    LOCAL = "local"
    """At the origin, as if it were a picture of its own."""
    COMPRESSED = "compressed"
    """Origins drawn together until every patch lies inside the trained range."""


@dataclass(frozen=True)
class Tile:
    """A window of the latent plane: its first row and column, and its shape."""

    row: int
    column: int
    height: int
    width: int

    @property
    def region(self) -> tuple[slice, slice, slice]:
        """Index of the tile in a [C, H, W] tensor."""
        rows = slice(self.row, self.row + self.height)
        return slice(None), rows, slice(self.column, self.column + self.width)


@dataclass(frozen=True)
class TilePlan:
    """Tiles that cover `height` x `width`, in row-major order."""

    height: int
    width: int
    tile_height: int
    tile_width: int
    rows: tuple[int, ...]
    """First row of each row of tiles."""
    columns: tuple[int, ...]
    """First column of each column of tiles."""

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """Every tile, row by row."""
        return tuple(
            Tile(row, column, self.tile_height, self.tile_width)
            for row, column in product(self.rows, self.columns)
        )

    def position_origin(self, tile: Tile, positions: TilePositions) -> tuple[int, int]:
        """Return the row and column, in patches, at which the tile's positions begin."""
        return (
            _place_origin(tile.row, self.tile_height, self.height, positions),
            _place_origin(tile.column, self.tile_width, self.width, positions),
        )


def plan_tiles(height: int, width: int, *, tile_size: int = 96, overlap: int = 16) -> TilePlan:
    """Plan the fewest tiles of at most `tile_size`, then the smallest that still cover.

    Neighbours share at least `overlap`. The plan is its own mirror image, but for the middle tile
    of an odd row on a side that does not divide by 4: no even origin lies at its centre.

    Raises:
        ValueError: If a length is no multiple of its step, or the overlap leaves no room.
    """
    if tile_size <= 0 or tile_size % TILE_STEP:
        raise ValueError(f"tile_size must be positive and divide by {TILE_STEP}, got {tile_size}")
    if not 0 <= overlap < tile_size:
        raise ValueError(f"overlap must be in [0, {tile_size}), got {overlap}")
    for name, length in (("height", height), ("width", width), ("overlap", overlap)):
        if length < 0 or length % PATCH_SIZE:
            raise ValueError(f"{name} must divide by {PATCH_SIZE} latent pixels, got {length}")
    tile_height, rows = _plan_axis(height, tile_size, overlap)
    tile_width, columns = _plan_axis(width, tile_size, overlap)
    return TilePlan(height, width, tile_height, tile_width, rows, columns)


def plan_whole(size: ImageSize) -> TilePlan:
    """Plan the picture as one tile."""
    height, width = size.latent_height, size.latent_width
    return TilePlan(height, width, height, width, rows=(0,), columns=(0,))


def shrink_to_area(size: ImageSize, *, max_pixels: int) -> ImageSize | None:
    """Choose the size within `max_pixels` that is nearest in aspect, then largest.

    A picture that is within it stays as it is; None if no size of this aspect is that small.
    """
    if size.height * size.width <= max_pixels:
        return size
    tallest = math.isqrt(max_pixels * size.height // size.width) // SIZE_MULTIPLE
    candidates = [
        ImageSize(rows * SIZE_MULTIPLE, columns * SIZE_MULTIPLE)
        for rows in range(max(1, tallest * 3 // 4), tallest + 1)
        if (columns := round(rows * size.width / size.height))
        and rows * columns * SIZE_MULTIPLE**2 <= max_pixels
    ]
    aspect = size.width / size.height
    return min(
        candidates,
        key=lambda small: (abs(small.width / small.height / aspect - 1), -small.height),
        default=None,
    )


def _plan_axis(length: int, tile_size: int, overlap: int) -> tuple[int, tuple[int, ...]]:
    if length <= tile_size:
        return length, (0,)
    count = math.ceil((length - overlap) / (tile_size - overlap))
    smallest = math.ceil((length + (count - 1) * overlap) / count)
    side = math.ceil(smallest / TILE_STEP) * TILE_STEP
    return side, tuple(_origin(index, count - 1, length - side) for index in range(count))


def _origin(index: int, last: int, room: int) -> int:
    """Spread origins over `room`, to the nearest patch; a tie goes to the nearer edge.

    Rounding evenly spaced points moves no two neighbours apart beyond the next whole patch, which
    still leaves them their overlap.
    """
    if 2 * index > last:
        return room - _origin(last - index, last, room)
    patches = math.ceil(index * room / (PATCH_SIZE * last) - 0.5)
    return patches * PATCH_SIZE


def _place_origin(origin: int, tile: int, length: int, positions: TilePositions) -> int:
    patches = origin // PATCH_SIZE
    beyond = length // PATCH_SIZE - TRAINED_PATCHES
    if positions is TilePositions.LOCAL:
        return 0
    if positions is TilePositions.TRUE or beyond <= 0 or origin == 0:
        return patches
    # Whole patches: the table of rotations serves them, and half a patch is far below the error
    # that drawing tiles together makes on purpose.
    room = TRAINED_PATCHES - tile // PATCH_SIZE
    return max(0, round(patches * room / (room + beyond)))
