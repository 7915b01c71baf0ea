"""Which tiles of a matrix product are computed where, and in which order."""

from functools import cache
from typing import Final

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

GROUPED_TILES: Final = 8
"""Row tiles that are computed together, so that a tile of the weight is read from the cache."""


@cache
def count_processors(device: torch.device) -> int:
    """Return how many programs run at once where one fills a processor."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@triton.jit
def locate_tile(tile, num_rows, num_cols, tile_rows, tile_cols, grouped):  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    """Return the first row and the first column of a program's tile."""
    row_tiles = tl.cdiv(num_rows, tile_rows)
    col_tiles = tl.cdiv(num_cols, tile_cols)
    group = tile // (grouped * col_tiles)
    first_row_tile = group * grouped
    group_rows = min(row_tiles - first_row_tile, grouped)
    within_group = tile % (grouped * col_tiles)
    row = (first_row_tile + within_group % group_rows) * tile_rows
    col = (within_group // group_rows) * tile_cols
    return row, col
