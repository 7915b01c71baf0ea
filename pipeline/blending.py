"""Blend overlapping tiles into one plane with feathered windows.

The order of the sum is that of the plan, in float32 and on the CPU: a plane comes out bit for bit
the same whichever card computed which tile.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.tiling import TilePlan


class TileBlender:
    """Blends the tiles of one plan; holds their windows."""

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan
        rows = feather_weights(plan.rows, plan.tile_height)
        columns = feather_weights(plan.columns, plan.tile_width)
        self._windows = [row[:, None] * column for row in rows for column in columns]

    def blend(self, values: Sequence[Tensor]) -> Tensor:
        """Sum the weighted tiles, [C, tile_height, tile_width] float32 each, into [C, H, W].

        Raises:
            ValueError: If there is not one value a tile.
        """
        tiles = self._plan.tiles
        if len(values) != len(tiles):
            raise ValueError(f"values must be one a tile, {len(tiles)}, got {len(values)}")
        # -0.0 is the zero that changes no number it is added to, not even another -0.0.
        shape = (values[0].shape[0], self._plan.height, self._plan.width)
        plane = torch.full(shape, -0.0, dtype=torch.float32)
        for tile, window, value in zip(tiles, self._windows, values, strict=True):
            plane[tile.region] += window * value
        return plane


def feather_weights(origins: Sequence[int], side: int) -> Tensor:
    """Weigh the tiles along one axis: raised cosines over what neighbours share.

    They sum to one at every place, and are exactly one where one tile covers. An edge of the plane
    has no neighbour, so it is not feathered.

    Returns:
        A [tiles, side] float32 tensor.
    """
    shared = [first + side - second for first, second in pairwise(origins)]
    raw = [
        torch.minimum(_ramp(before, side), _ramp(after, side).flip(0))
        for before, after in zip([0, *shared], [*shared, 0], strict=True)
    ]
    total = torch.zeros(origins[-1] + side, dtype=torch.float64)
    for origin, weights in zip(origins, raw, strict=True):
        total[origin : origin + side] += weights
    normalised = [
        weights / total[origin : origin + side]
        for origin, weights in zip(origins, raw, strict=True)
    ]
    return torch.stack(normalised).float()


def _ramp(shared: int, side: int) -> Tensor:
    """Rise from 0 to 1 over the first `shared` of `side` places."""
    if shared == 0:
        return torch.ones(side, dtype=torch.float64)
    place = (torch.arange(side, dtype=torch.float64) + 0.5) / shared
    return torch.sin(place.clamp(max=1) * (math.pi / 2)) ** 2
