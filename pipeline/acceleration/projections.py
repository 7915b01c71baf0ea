"""Matrix products of a block in 16 or 8 bits, several linears merged into one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.acceleration.options import Precision
from pipeline.errors import AccelerationUnavailableError

FLOAT8: Final = torch.float8_e4m3fn
FLOAT8_MAX: Final = 448.0
"""The largest number of e4m3."""
INT8_MAX: Final = 127.0
FLOAT8_MULTIPLE: Final = 16
"""Sides of a float8 product divide by this, see `torch._scaled_mm`."""
_ROWS_AT_ONCE: Final = 1024
"""Rows that are quantised at once: a whole weight in float32 would not fit beside the model."""


@dataclass(frozen=True, eq=False)
class QuantizedRows:
    """Float8 rows: `values * scales` is what they stand for."""

    values: Tensor
    """[rows, dim] float8."""
    scales: Tensor
    """[rows, 1] float32."""


Rows = Tensor | QuantizedRows


def split_rows(rows: Rows, most: int) -> list[Rows]:
    """Cut rows into parts of at most so many."""
    if isinstance(rows, Tensor):
        return list(torch.split(rows, most))
    parts = zip(torch.split(rows.values, most), torch.split(rows.scales, most), strict=True)
    return [QuantizedRows(values, scales) for values, scales in parts]


def quantize_rows(rows: Tensor) -> QuantizedRows:
    """Scale every row so that its largest absolute value is the largest number of float8."""
    return QuantizedRows(*_scale_rows(rows, FLOAT8, FLOAT8_MAX))


def _scale_rows(rows: Tensor, dtype: torch.dtype, largest: float) -> tuple[Tensor, Tensor]:
    """Return 8-bit values and the scale of each row, by which its largest value is `largest`."""
    values = torch.empty_like(rows, dtype=dtype)
    scales = rows.new_empty(rows.shape[0], 1, dtype=torch.float32)
    parts = (torch.split(each, _ROWS_AT_ONCE) for each in (rows, values, scales))
    for part, value, scale in zip(*parts, strict=True):
        widened = part.float()
        scale.copy_(widened.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / largest)
        scaled = widened / scale
        value.copy_(scaled if dtype.is_floating_point else scaled.round())
    return values, scales


class Projection(Protocol):
    """A product with a fixed weight."""

    takes_quantized: bool
    """Whether it reads `QuantizedRows`."""
    shape: tuple[int, int]
    """Of the weight: outputs and inputs."""

    def __call__(self, rows: Rows) -> Tensor:
        """Return [rows, out] in bfloat16."""
        ...


class DenseProjection:
    """The weight as it is."""

    takes_quantized = False

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.shape = (int(weight.shape[0]), int(weight.shape[1]))

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply."""
        if isinstance(rows, QuantizedRows):
            raise TypeError("rows must not be quantised for a product of 16-bit weights")
        return F.linear(rows, self.weight)


class Float8Projection:
    """Weight and input in float8 with a scale for each row of both."""

    takes_quantized = True

    def __init__(self, weight: Tensor) -> None:
        """Quantise.

        Raises:
            AccelerationUnavailableError: If a side does not divide by what the product needs.
        """
        if any(side % FLOAT8_MULTIPLE for side in weight.shape):
            raise AccelerationUnavailableError(
                f"precision 'float8' needs sides that divide by {FLOAT8_MULTIPLE}, "
                f"got a weight of {list(weight.shape)}"
            )
        quantized = quantize_rows(weight)
        self._weight = quantized.values
        self._scales = quantized.scales.t().contiguous()
        self._dtype = weight.dtype
        self.shape = (int(weight.shape[0]), int(weight.shape[1]))

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply."""
        if not isinstance(rows, QuantizedRows):
            raise TypeError("rows must be quantised for a product of 8-bit weights")
        product: Tensor = torch._scaled_mm(
            rows.values,
            self._weight.t(),
            rows.scales,
            self._scales,
            out_dtype=self._dtype,
            use_fast_accum=True,
        )
        return product


class Int8WeightProjection:
    """Weight in 8-bit integers with a scale for each output, input and products in 16 bits.

    It halves the weights on any GPU; they are widened before each product, to numbers that bfloat16
    holds exactly.
    """

    takes_quantized = False

    def __init__(self, weight: Tensor) -> None:
        self._weight, scales = _scale_rows(weight, torch.int8, INT8_MAX)
        self._scales = scales[:, 0].to(weight.dtype)
        self.shape = (int(weight.shape[0]), int(weight.shape[1]))

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply."""
        if isinstance(rows, QuantizedRows):
            raise TypeError("rows must not be quantised for a product of 8-bit weights alone")
        return F.linear(rows, self._weight.to(rows.dtype)) * self._scales


def merge(linears: Sequence[nn.Linear], precision: Precision, *, keeps_source: bool) -> Projection:
    """Merge linears without bias that read the same rows, their outputs side by side.

    The 16-bit linears become views of the merged weight. Quantised ones keep theirs only with
    `keeps_source`, and are empty otherwise: two copies of the model would not fit.
    """
    weight = linears[0].weight.data
    if len(linears) > 1:
        weight = torch.cat([linear.weight.data for linear in linears])
    if precision is not Precision.BFLOAT16:
        is_float8 = precision is Precision.FLOAT8
        projection: Projection = (
            Float8Projection(weight) if is_float8 else Int8WeightProjection(weight)
        )
        if not keeps_source:
            for linear in linears:
                linear.weight.data = weight.new_empty(0)
        return projection
    parts = torch.split(weight, [each.out_features for each in linears])
    for linear, part in zip(linears, parts, strict=True):
        linear.weight.data = part
    return DenseProjection(weight)
