"""A matrix product whose rows do not depend on how many there are.

cuBLAS chooses its kernel by shape, and another kernel sums in another order. Here a tile of rows
walks the whole inner dimension in order, without splitting it, however wide the tile is, so a row's
bytes are the same in any company. It is for where cuBLAS was found to differ.
"""

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import Any, Final

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor
from triton.tools.tensor_descriptor import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    TensorDescriptor,
)

from pipeline.acceleration.projections import DenseProjection, Rows, require_plain
from pipeline.acceleration.triton_tiles import GROUPED_TILES, count_processors, locate_tile
from pipeline.denoising.triton_row_ops import TritonRowOps

_TILE_ROWS: Final = 128
_TILE_COLS: Final = (64, 128, 256)
_TILE_INNER: Final = 64


def multiply_rows(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `hidden @ weight.T + bias` for [rows, inner] and [cols, inner]."""
    num_rows, inner = hidden.shape
    num_cols = weight.shape[0]
    product = torch.empty(num_rows, num_cols, dtype=hidden.dtype, device=hidden.device)
    tile_cols = choose_tile_cols(num_rows, num_cols, count_processors(hidden.device))
    grid = (triton.cdiv(num_rows, _TILE_ROWS) * triton.cdiv(num_cols, tile_cols),)
    _multiply_kernel[grid](
        TensorDescriptor.from_tensor(hidden.contiguous(), [_TILE_ROWS, _TILE_INNER]),
        TensorDescriptor.from_tensor(weight, [tile_cols, _TILE_INNER]),
        TensorDescriptor.from_tensor(product, [_TILE_ROWS, tile_cols]),
        bias,
        num_rows,
        num_cols,
        inner=inner,
        has_bias=bias is not None,
        tile_rows=_TILE_ROWS,
        tile_cols=tile_cols,
        tile_inner=_TILE_INNER,
        grouped=GROUPED_TILES,
        num_warps=8,
        num_stages=3,
    )
    return product


def choose_tile_cols(num_rows: int, num_cols: int, processors: int) -> int:
    """Return the narrowest tile with which each processor has at most one.

    Few rows then keep as many processors busy as they can. Many have the widest, which reads least.
    """
    row_tiles = ceil(num_rows / _TILE_ROWS)
    fitting = (cols for cols in _TILE_COLS if row_tiles * ceil(num_cols / cols) <= processors)
    least: int = triton.next_power_of_2(num_cols)
    return min(next(fitting, _TILE_COLS[-1]), least)


def multiplies(weight: Tensor) -> bool:
    """Say whether a weight is in bfloat16 and its rows are aligned for bulk copies."""
    return weight.dtype is torch.bfloat16 and all(2 * side % 16 == 0 for side in weight.shape)


class RowInvariantProjection(DenseProjection):
    """Multiplies by the library where it gives the bytes of `multiply_rows`, by that elsewhere."""

    def __init__(self, weight: Tensor, library_counts: frozenset[int]) -> None:
        """Take the row counts that `find_library_counts` found for weights of this shape."""
        super().__init__(weight)
        self._library_counts = library_counts

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply."""
        hidden = require_plain(rows)
        if hidden.shape[0] in self._library_counts:
            return super().__call__(hidden)
        return multiply_rows(hidden, self.weight, None)


class RowInvariantRowOps(TritonRowOps):
    """Multiplies by the library where it gives the bytes of `multiply_rows`, by that elsewhere.

    cuBLAS is up to twice as fast, and for most row counts sums in the same order: on an H100 all
    products of a block, not that of the final layer, which it splits at few rows.
    """

    def __init__(self, linears: Iterable[torch.nn.Linear], row_counts: Sequence[int]) -> None:
        self._library_counts: dict[tuple[torch.Size, bool], frozenset[int]] = {}
        for linear in linears:
            key = _key(linear)
            if key not in self._library_counts:
                self._library_counts[key] = find_library_counts(
                    linear, linear.weight, linear.bias, row_counts
                )

    def linear(self, module: Any, hidden: Tensor) -> Tensor:
        """Apply a linear layer."""
        if hidden.shape[0] in self._library_counts.get(_key(module), ()):
            return super().linear(module, hidden)
        return multiply_rows(hidden, module.weight, module.bias)

    @staticmethod
    def covers(module: torch.nn.Module) -> bool:
        """Whether a layer is a plain linear, and of a weight that `multiplies` says."""
        return type(module) is torch.nn.Linear and multiplies(module.weight)


def _key(linear: torch.nn.Linear) -> tuple[torch.Size, bool]:
    return linear.weight.shape, linear.bias is None


@torch.no_grad()
def find_library_counts(
    library: Callable[[Tensor], Tensor],
    weight: Tensor,
    bias: Tensor | None,
    row_counts: Sequence[int],
) -> frozenset[int]:
    """Return the numbers of rows that the library multiplies to the bytes of `multiply_rows`."""
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randn(max(row_counts), weight.shape[1], generator=generator)
    rows = drawn.to(weight.device, weight.dtype)
    fixed = multiply_rows(rows, weight, bias)
    return frozenset(
        count
        for count in row_counts
        if torch.equal(library(rows[:count]), fixed[:count])
        and torch.equal(library(rows[-count:]), fixed[-count:])
    )


@triton.jit
def _multiply_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    hidden,
    weight,
    product,
    bias,
    num_rows,
    num_cols,
    inner: tl.constexpr,
    has_bias: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_cols: tl.constexpr,
    tile_inner: tl.constexpr,
    grouped: tl.constexpr,
):
    tile = tl.program_id(0)
    row, col = locate_tile(tile, num_rows, num_cols, tile_rows, tile_cols, grouped)
    total = tl.zeros((tile_rows, tile_cols), dtype=tl.float32)
    for start in range(0, inner, tile_inner):
        rows = hidden.load([row, start])
        cols = weight.load([col, start])
        total = tl.dot(rows, cols.T, total)
    if has_bias:
        columns = col + tl.arange(0, tile_cols)
        total += tl.load(bias + columns, mask=columns < num_cols, other=0.0).to(tl.float32)[None, :]
    product.store([row, col], total.to(product.dtype))
