"""A matrix product of 8-bit integers, scaled by row and by column as it is written.

Its sums are 32-bit integers, so they are exact: neither the shape of a tile nor the other rows
change a row's bytes.
"""

from functools import cache
from typing import Final

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor
from triton.tools.tensor_descriptor import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    TensorDescriptor,
)

from pipeline.acceleration.triton_tiles import GROUPED_TILES, locate_tile

_TILE_ROWS: Final = 128
_WIDE_COLS: Final = 256
_NARROW_COLS: Final = 128
_TILE_INNER: Final = 128
_FEW_ROUNDS: Final = 2
"""With fewer wide tiles a processor than that, most of them would wait for the last ones."""


def multiply_int8(
    rows: Tensor, row_scales: Tensor, weight: Tensor, col_scales: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return `(rows * row_scales) @ (weight * col_scales).T`.

    Args:
        rows: [rows, inner] int8.
        row_scales: [rows, 1] float32.
        weight: [cols, inner] int8.
        col_scales: [cols, 1] float32.
        dtype: Of the product.
    """
    num_rows, inner = rows.shape
    num_cols = weight.shape[0]
    product = torch.empty(num_rows, num_cols, dtype=dtype, device=rows.device)
    row_tiles = triton.cdiv(num_rows, _TILE_ROWS)
    num_processors = _count_processors(rows.device)
    is_wide = row_tiles * triton.cdiv(num_cols, _WIDE_COLS) >= _FEW_ROUNDS * num_processors
    tile_cols = _WIDE_COLS if is_wide else _NARROW_COLS
    _multiply_kernel[(row_tiles * triton.cdiv(num_cols, tile_cols),)](
        TensorDescriptor.from_tensor(rows, [_TILE_ROWS, _TILE_INNER]),
        TensorDescriptor.from_tensor(weight, [tile_cols, _TILE_INNER]),
        TensorDescriptor.from_tensor(product, [_TILE_ROWS, tile_cols]),
        row_scales,
        col_scales,
        num_rows,
        num_cols,
        inner=inner,
        tile_rows=_TILE_ROWS,
        tile_cols=tile_cols,
        tile_inner=_TILE_INNER,
        grouped=GROUPED_TILES,
        num_warps=8 if is_wide else 4,
        num_stages=3 if is_wide else 4,
    )
    return product


@cache
def _count_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


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
    tile_rows: tl.constexpr,
    tile_cols: tl.constexpr,
    tile_inner: tl.constexpr,
    grouped: tl.constexpr,
):
    tile = tl.program_id(0)
    row, col = locate_tile(tile, num_rows, num_cols, tile_rows, tile_cols, grouped)
    total = tl.zeros((tile_rows, tile_cols), dtype=tl.int32)
    for start in range(0, inner, tile_inner):
        part = rows.load([row, start])
        cols = weight.load([col, start])
        total = tl.dot(part, cols.T, total, out_dtype=tl.int32)
    row_at = row + tl.arange(0, tile_rows)
    col_at = col + tl.arange(0, tile_cols)
    by_row = tl.load(row_scales + row_at, mask=row_at < num_rows, other=0.0)
    by_col = tl.load(col_scales + col_at, mask=col_at < num_cols, other=0.0)
    scaled = total.to(tl.float32) * by_row[:, None] * by_col[None, :]
    product.store([row, col], scaled.to(product.dtype))
