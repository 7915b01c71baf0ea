"""A matrix product in bfloat16 that is gated as it is written, for Hopper.

cuBLAS multiplies as fast, but writes both halves for a row kernel to read. An element's sum is over
the inner side in order, in float32, so neither the other rows nor how tiles are cut change a row's
bytes.
"""

from typing import Final

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor
from triton.tools.tensor_descriptor import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    TensorDescriptor,
)

from pipeline.acceleration.triton_tiles import count_processors, locate_tile

_ROWS: Final = 128
_INNER: Final = 64
_STAGES: Final = 4
_WARPS: Final = 8
_GROUPED_TILES: Final = 16
"""As `GROUPED_TILES`, for tiles whose weights are twice as wide as what they write."""
_INNER_MULTIPLE: Final = 8
"""Bulk copies read rows of a multiple of 16 bytes."""

GATED_COLS: Final = 128
"""Columns of either half that lie side by side in the weight, and of a tile of the product."""


def takes_gated(shape: tuple[int, ...]) -> bool:
    """Say whether halves of this shape, [cols, inner], can be multiplied by and gated."""
    return shape[0] % GATED_COLS == 0 and shape[1] % _INNER_MULTIPLE == 0


def multiply_gated(rows: Tensor, weight: Tensor) -> Tensor:
    """Return `silu(a) * b`, where `a` and `b` are the products of `rows` and either half.

    Args:
        rows: [rows, inner].
        weight: [2 * cols, inner], `GATED_COLS` rows of the first half, as many of the second, and
            so on; the halves are of a shape that `takes_gated` says.
    """
    num_rows, inner = rows.shape
    num_cols = weight.shape[0] // 2
    product = rows.new_empty(num_rows, num_cols)
    # The same for any number of tiles, since another one would be another kernel to compile.
    programs = count_processors(product.device)
    tiles = triton.cdiv(num_rows, _ROWS) * triton.cdiv(num_cols, GATED_COLS)
    _multiply_kernel[(programs,)](
        TensorDescriptor.from_tensor(rows, [_ROWS, _INNER]),
        TensorDescriptor.from_tensor(weight, [2 * GATED_COLS, _INNER]),
        TensorDescriptor.from_tensor(weight, [GATED_COLS // 2, _INNER]),
        TensorDescriptor.from_tensor(product, [_ROWS, GATED_COLS]),
        TensorDescriptor.from_tensor(product, [_ROWS, GATED_COLS // 2]),
        num_rows,
        num_cols,
        count_whole_tiles(tiles, programs),
        tiles,
        inner=inner,
        tile_rows=_ROWS,
        tile_cols=GATED_COLS,
        tile_inner=_INNER,
        grouped=_GROUPED_TILES,
        programs=programs,
        num_warps=_WARPS,
        num_stages=_STAGES,
    )
    return product


def count_whole_tiles(tiles: int, programs: int) -> int:
    """Return how many tiles are computed whole; the others are cut into two halves.

    Programs take a tile each, round after round. Where at most half of them would have one in the
    last round, the halves of those tiles take half as long.
    """
    rest = tiles % programs
    return tiles - rest if 2 * rest <= programs else tiles


# Whether a number divides by 16 would make another kernel, to be compiled in the midst of requests.
@triton.jit(do_not_specialize=["num_rows", "whole_tiles", "tiles"])
def _multiply_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    rows,
    weight,
    half_weight,
    product,
    half_product,
    num_rows,
    num_cols,
    whole_tiles,
    tiles,
    inner: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_cols: tl.constexpr,
    tile_inner: tl.constexpr,
    grouped: tl.constexpr,
    programs: tl.constexpr,
):
    for index in tl.range(tl.program_id(0), whole_tiles, programs, flatten=True):
        row, col = locate_tile(index, num_rows, num_cols, tile_rows, tile_cols, grouped)
        total = tl.zeros((tile_rows, 2 * tile_cols), dtype=tl.float32)
        for start in range(0, inner, tile_inner):
            part = rows.load([row, start])
            cols = weight.load([2 * col, start])
            total = tl.dot(part, cols.T, total)
        halves = tl.permute(tl.reshape(total, (tile_rows, 2, tile_cols)), (0, 2, 1))
        opening, values = tl.split(halves)
        product.store([row, col], _gate(opening, values).to(product.dtype))
    half: tl.constexpr = tile_cols // 2
    num_halves = 2 * (tiles - whole_tiles)
    for index in tl.range(tl.program_id(0), num_halves, programs):
        tile = whole_tiles + index // 2
        row, col = locate_tile(tile, num_rows, num_cols, tile_rows, tile_cols, grouped)
        shift = index % 2 * half
        opening = tl.zeros((tile_rows, half), dtype=tl.float32)
        values = tl.zeros((tile_rows, half), dtype=tl.float32)
        for start in range(0, inner, tile_inner):
            part = rows.load([row, start])
            cols = half_weight.load([2 * col + shift, start])
            opening = tl.dot(part, cols.T, opening)
            cols = half_weight.load([2 * col + tile_cols + shift, start])
            values = tl.dot(part, cols.T, values)
        half_product.store([row, col + shift], _gate(opening, values).to(half_product.dtype))


@triton.jit
def _gate(opening, values):  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    return opening * tl.sigmoid(opening) * values
