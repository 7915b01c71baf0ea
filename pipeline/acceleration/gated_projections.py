"""The first product of a feed-forward and its gate: in one kernel where there is one."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from pipeline.acceleration import triton_bfloat16, triton_int8, triton_rows
from pipeline.acceleration.options import Precision
from pipeline.acceleration.projections import (
    Int8Projection,
    Projection,
    QuantizedRows,
    Rows,
    merge,
    merge_into,
    require_plain,
    require_quantized,
)

_GATES_BFLOAT16: Final = ((9, 0),)
"""Compute capabilities of the GPUs where a bfloat16 product with its gate was measured: Hopper's
(`tests/benchmarks/hopper.py`)."""


class GatedProjection(Projection, Protocol):
    """Returns `silu(a) * b`, where `a` and `b` are products with either half of the weight.

    So it is half as wide as its `shape` says, which is that of the weight.
    """

    @property
    def product(self) -> Projection:
        """What multiplies: a row's bytes can depend on other rows there, not in the gate."""
        ...

    def quantized(self, rows: Rows, dtype: torch.dtype) -> Rows:
        """Return the same in 8 bits."""
        ...


class GatedByRows:
    """Any product, then a row kernel."""

    def __init__(self, product: Projection) -> None:
        self.product = product
        self.reads = product.reads
        self.shape = product.shape

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply, and gate."""
        gated = triton_rows.gate_halves(self.product(rows))
        assert isinstance(gated, Tensor)
        return gated

    def quantized(self, rows: Rows, dtype: torch.dtype) -> Rows:
        """Multiply; gate and quantise in one kernel."""
        return triton_rows.gate_halves(self.product(rows), quantized_to=dtype)


class BFloat16GatedProjection:
    """Gated as its product is written: neither half of that is ever in memory."""

    reads: torch.dtype | None = None

    def __init__(self, weight: Tensor) -> None:
        """Copy; `triton_bfloat16.GATED_COLS` divides both halves."""
        self._weight = interleave_halves(weight, triton_bfloat16.GATED_COLS)
        self.shape = (int(weight.shape[0]), int(weight.shape[1]))

    @property
    def product(self) -> Projection:
        """The same: product and gate are one kernel."""
        return self

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply and gate."""
        return triton_bfloat16.multiply_gated(require_plain(rows), self._weight)

    def quantized(self, rows: Rows, dtype: torch.dtype) -> Rows:
        """Multiply and gate, then quantise."""
        return triton_rows.quantize(self(rows), dtype)


class Int8GatedProjection(Int8Projection):
    """As `BFloat16GatedProjection`, in 8-bit integers."""

    def __init__(self, weight: Tensor) -> None:
        """Quantise; `triton_int8.GATED_COLS` divides both halves.

        Raises:
            AccelerationUnavailableError: If a side does not divide by what the product needs.
        """
        super().__init__(weight)
        self._weight = QuantizedRows(
            interleave_halves(self._weight.values, triton_int8.GATED_COLS),
            interleave_halves(self._weight.scales, triton_int8.GATED_COLS),
        )

    @property
    def product(self) -> Projection:
        """The same: product and gate are one kernel."""
        return self

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply and gate."""
        quantized = require_quantized(rows)
        return self._multiply(quantized, self._weight, self._dtype, is_gated=True)

    def quantized(self, rows: Rows, dtype: torch.dtype) -> Rows:
        """Multiply and gate, then quantise."""
        return triton_rows.quantize(self(rows), dtype)


def interleave_halves(weight: Tensor, cols: int) -> Tensor:
    """Return a gated product's weight with its rows in the order in which a tile reads them.

    `cols` rows of the first half, as many of the second, and so on: what is gated by what then
    comes out of one tile. `cols` must divide both halves.
    """
    halves = weight.view(2, -1, cols, weight.shape[1])
    return halves.transpose(0, 1).reshape(weight.shape)


def merge_gated(
    linears: Sequence[nn.Linear],
    precision: Precision,
    *,
    keeps_source: bool,
    gates_bfloat16: bool = True,
) -> GatedProjection:
    """Merge the linear that goes through `silu` with the other.

    As `merge` does, but where product and gate are one kernel, linears in 16 bits too keep their
    weights with `keeps_source` only. In 16 bits that is what Hopper does with `gates_bfloat16`:
    cuBLAS and a row kernel are quicker for the rows of a prompt.

    Raises:
        AccelerationUnavailableError: If a side does not divide by what the product needs.
    """
    build: Callable[[Tensor], GatedProjection] | None = None
    linear = linears[0]
    if precision is Precision.INT8 and linear.out_features % triton_int8.GATED_COLS == 0:
        build = Int8GatedProjection
    elif precision is Precision.BFLOAT16 and gates_bfloat16 and _gates_bfloat16(linear.weight):
        build = BFloat16GatedProjection
    if build is None:
        return GatedByRows(merge(linears, precision, keeps_source=keeps_source))
    return merge_into(linears, build, keeps_source=keeps_source)


def _gates_bfloat16(weight: Tensor) -> bool:
    if not weight.is_cuda or weight.dtype != torch.bfloat16:
        return False
    is_measured = torch.cuda.get_device_capability(weight.device) in _GATES_BFLOAT16
    return is_measured and triton_bfloat16.takes_gated(tuple(weight.shape))


def feed_forward(gated: GatedProjection, last: Projection, rows: Rows) -> Tensor:
    """Run a feed-forward: both halves, the gate and the last product."""
    return last(gated(rows) if last.reads is None else gated.quantized(rows, last.reads))
