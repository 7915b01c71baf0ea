"""The first product of a feed-forward and its gate: in one kernel where there is one."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.acceleration import triton_rows
from pipeline.acceleration.options import Precision
from pipeline.acceleration.projections import (
    Int8Projection,
    Projection,
    QuantizedRows,
    Rows,
    merge,
    merge_quantized,
    require_quantized,
)
from pipeline.acceleration.triton_int8 import GATED_COLS, interleave_halves


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


class Int8GatedProjection(Int8Projection):
    """Gated as its product is written: half of that is never in memory."""

    def __init__(self, weight: Tensor) -> None:
        """Quantise; `GATED_COLS` divides both halves.

        Raises:
            AccelerationUnavailableError: If a side does not divide by what the product needs.
        """
        super().__init__(weight)
        self._weight = QuantizedRows(
            interleave_halves(self._weight.values), interleave_halves(self._weight.scales)
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


def merge_gated(
    linears: Sequence[nn.Linear], precision: Precision, *, keeps_source: bool
) -> GatedProjection:
    """Merge the linear that goes through `silu` with the other, as `merge` does.

    Raises:
        AccelerationUnavailableError: If a side does not divide by what the product needs.
    """
    width = linears[0].out_features
    if precision is not Precision.INT8 or width % GATED_COLS:
        return GatedByRows(merge(linears, precision, keeps_source=keeps_source))
    return merge_quantized(linears, Int8GatedProjection, keeps_source=keeps_source)


def feed_forward(gated: GatedProjection, last: Projection, rows: Rows) -> Tensor:
    """Run a feed-forward: both halves, the gate and the last product."""
    return last(gated(rows) if last.reads is None else gated.quantized(rows, last.reads))
