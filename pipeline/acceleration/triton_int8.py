"""A matrix product of 8-bit integers, scaled by row and column as it is written, gated if asked.

Its sums are 32-bit integers, so they are exact: neither the shape of a tile nor the other rows
change a row's bytes. Two small tiles share a processor: while one is scaled and written the other
multiplies, which is faster on an H200 than one large tile.
"""

from typing import Final

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor
from triton.tools.tensor_descriptor import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    TensorDescriptor,
)

from pipeline.acceleration.projections import QuantizedRows
from pipeline.acceleration.triton_tiles import count_processors, locate_tile

_TILE: Final = 128
"""Rows, columns and inner elements of a tile."""
_GROUPED_TILES: Final = 16
"""As `GROUPED_TILES`, of tiles half as wide."""
_TILES_A_PROCESSOR: Final = 2
_STAGES: Final = 3
"""Tiles on their way from memory; with more, two programs do not fit into a processor."""

GATED_COLS: Final = _TILE // 2
"""Columns of either half that lie side by side in a gated product's weight."""


def multiply_int8(
    rows: QuantizedRows, weight: QuantizedRows, dtype: torch.dtype, *, is_gated: bool = False
) -> Tensor:
    """Return `rows @ weight.T` of what both stand for.

    Args:
        rows: Values [rows, inner] int8.
        weight: Values [cols, inner] int8.
        dtype: Of the product.
        is_gated: Return `silu(a) * b` instead, half as wide, where `a` and `b` are the products of
            the halves whose columns lie side by side in the weight, `GATED_COLS` of each in turn.
    """
    num_rows, inner = rows.values.shape
    num_cols = weight.values.shape[0]
    product = rows.values.new_empty(num_rows, num_cols // 2 if is_gated else num_cols, dtype=dtype)
    # The same for any number of tiles, since another one would be another kernel to compile.
    programs = _TILES_A_PROCESSOR * count_processors(product.device)
    _multiply_kernel[(programs,)](
        TensorDescriptor.from_tensor(rows.values, [_TILE, _TILE]),
        TensorDescriptor.from_tensor(weight.values, [_TILE, _TILE]),
        TensorDescriptor.from_tensor(product, [_TILE, _TILE // 2]),
        rows.scales,
        weight.scales,
        num_rows,
        num_cols,
        inner=inner,
        tile=_TILE,
        grouped=_GROUPED_TILES,
        programs=programs,
        is_gated=is_gated,
        num_warps=4,
        num_stages=_STAGES,
    )
    return product


@triton.jit
def _multiply_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    rows,
    weight,
    product,
    row_scales,
    col_scales,
    num_rows,
    num_cols,
    inner: tl.constexpr,
    tile: tl.constexpr,
    grouped: tl.constexpr,
    programs: tl.constexpr,
    is_gated: tl.constexpr,
):
    half: tl.constexpr = tile // 2
    tiles = tl.cdiv(num_rows, tile) * tl.cdiv(num_cols, tile)
    for index in tl.range(tl.program_id(0), tiles, programs, flatten=True):
        row, col = locate_tile(index, num_rows, num_cols, tile, tile, grouped)
        total = tl.zeros((tile, tile), dtype=tl.int32)
        for start in range(0, inner, tile):
            part = rows.load([row, start])
            cols = weight.load([col, start])
            total = tl.dot(part, cols.T, total, out_dtype=tl.int32)
        row_at = row + tl.arange(0, tile)
        by_row = tl.load(row_scales + row_at, mask=row_at < num_rows, other=0.0)
        # In halves, so that what is being written takes less of the memory for the next tile.
        first, second = tl.split(tl.permute(tl.reshape(total, (tile, 2, half)), (0, 2, 1)))
        first = _scale(first, by_row, col_scales, col, num_cols)
        second = _scale(second, by_row, col_scales, col + half, num_cols)
        if is_gated:
            gated = first * tl.sigmoid(first) * second
            product.store([row, col // 2], gated.to(product.dtype))
        else:
            product.store([row, col], first.to(product.dtype))
            product.store([row, col + half], second.to(product.dtype))


@triton.jit
def _scale(sums, by_row, col_scales, col, num_cols):  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    col_at = col + tl.arange(0, sums.shape[1])
    by_col = tl.load(col_scales + col_at, mask=col_at < num_cols, other=0.0)
    return sums.to(tl.float32) * by_row[:, None] * by_col[None, :]
