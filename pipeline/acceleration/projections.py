"""Matrix products of a block in 16 or 8 bits, several linears merged into one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.acceleration.options import Precision
from pipeline.errors import AccelerationUnavailableError

FLOAT8: Final = torch.float8_e4m3fn
LARGEST: Final = {FLOAT8: 448.0, torch.int8: 127.0}
"""What the largest absolute value of a quantised row becomes: the type's largest number."""
_SIDE_MULTIPLE: Final = 16
"""Sides of an 8-bit product divide by this: `torch._scaled_mm` and bulk copies ask for it."""
_ROWS_AT_ONCE: Final = 1024
"""Rows that are quantised at once: a whole weight in float32 would not fit beside the model."""


@dataclass(frozen=True, eq=False)
class QuantizedRows:
    """Rows in 8 bits: `values * scales` is what they stand for."""

    values: Tensor
    """[rows, dim] float8 or int8."""
    scales: Tensor
    """[rows, 1] float32."""


Rows = Tensor | QuantizedRows


def require_quantized(rows: Rows) -> QuantizedRows:
    """Return rows for a product of 8-bit weights, which takes no others."""
    if not isinstance(rows, QuantizedRows):
        raise TypeError("rows must be quantised for a product of 8-bit weights")
    return rows


def require_plain(rows: Rows) -> Tensor:
    """Return rows for a product of 16-bit weights, which takes no others."""
    if isinstance(rows, QuantizedRows):
        raise TypeError("rows must not be quantised for a product of 16-bit weights")
    return rows


def split_rows(rows: Rows, most: int) -> list[Rows]:
    """Cut rows into parts of at most so many."""
    if isinstance(rows, Tensor):
        return list(torch.split(rows, most))
    parts = zip(torch.split(rows.values, most), torch.split(rows.scales, most), strict=True)
    return [QuantizedRows(values, scales) for values, scales in parts]


def quantize_rows(rows: Tensor, dtype: torch.dtype) -> QuantizedRows:
    """Scale every row so that its largest absolute value is the largest number of the type."""
    largest = LARGEST[dtype]
    values = torch.empty_like(rows, dtype=dtype)
    scales = rows.new_empty(rows.shape[0], 1, dtype=torch.float32)
    parts = (torch.split(each, _ROWS_AT_ONCE) for each in (rows, values, scales))
    for part, value, scale in zip(*parts, strict=True):
        widened = part.float()
        scale.copy_(widened.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / largest)
        scaled = widened / scale
        value.copy_(scaled if dtype.is_floating_point else scaled.round())
    return QuantizedRows(values, scales)


class Projection(Protocol):
    """A product with a fixed weight."""

    reads: torch.dtype | None
    """The type of the `QuantizedRows` that it reads; None for rows in 16 bits."""
    shape: tuple[int, int]
    """Of the weight: outputs and inputs."""

    def __call__(self, rows: Rows) -> Tensor:
        """Return [rows, out] in bfloat16."""
        ...


class DenseProjection:
    """The weight as it is."""

    reads: torch.dtype | None = None

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.shape = (int(weight.shape[0]), int(weight.shape[1]))

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply."""
        return F.linear(require_plain(rows), self.weight)


class Float8Projection:
    """Weight and input in float8 with a scale for each row of both."""

    reads: torch.dtype | None = FLOAT8

    def __init__(self, weight: Tensor) -> None:
        """Quantise.

        Raises:
            AccelerationUnavailableError: If a side does not divide by what the product needs.
        """
        _check_sides(weight, Precision.FLOAT8)
        quantized = quantize_rows(weight, FLOAT8)
        self._weight = quantized.values
        self._scales = quantized.scales.t().contiguous()
        self._dtype = weight.dtype
        self.shape = (int(weight.shape[0]), int(weight.shape[1]))

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply."""
        quantized = require_quantized(rows)
        product: Tensor = torch._scaled_mm(
            quantized.values,
            self._weight.t(),
            quantized.scales,
            self._scales,
            out_dtype=self._dtype,
            use_fast_accum=True,
        )
        return product


class Int8Projection:
    """Weight and input in 8-bit integers with a scale for each row of both."""

    reads: torch.dtype | None = torch.int8

    def __init__(self, weight: Tensor) -> None:
        """Quantise.

        Raises:
            AccelerationUnavailableError: If a side does not divide by what the product needs.
        """
        from pipeline.acceleration import triton_int8  # Triton comes with CUDA builds only

        _check_sides(weight, Precision.INT8)
        self._multiply = triton_int8.multiply_int8
        self._weight = quantize_rows(weight, torch.int8)
        self._dtype = weight.dtype
        self.shape = (int(weight.shape[0]), int(weight.shape[1]))

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply."""
        return self._multiply(require_quantized(rows), self._weight, self._dtype)


class Int8WeightProjection:
    """Weight in 8-bit integers with a scale for each output, input and products in 16 bits.

    It halves the weights on any GPU; they are widened before each product, to numbers that bfloat16
    holds exactly.
    """

    reads: torch.dtype | None = None

    def __init__(self, weight: Tensor) -> None:
        quantized = quantize_rows(weight, torch.int8)
        self._weight = quantized.values
        self._scales = quantized.scales[:, 0].to(weight.dtype)
        self.shape = (int(weight.shape[0]), int(weight.shape[1]))

    def __call__(self, rows: Rows) -> Tensor:
        """Multiply."""
        if isinstance(rows, QuantizedRows):
            raise TypeError("rows must not be quantised for a product of 8-bit weights alone")
        return F.linear(rows, self._weight.to(rows.dtype)) * self._scales


_Projection = TypeVar("_Projection", bound=Projection)
_QUANTIZED: Final[dict[Precision, Callable[[Tensor], Projection]]] = {
    Precision.FLOAT8: Float8Projection,
    Precision.INT8: Int8Projection,
    Precision.INT8_WEIGHTS: Int8WeightProjection,
}


def _check_sides(weight: Tensor, precision: Precision) -> None:
    if any(side % _SIDE_MULTIPLE for side in weight.shape):
        raise AccelerationUnavailableError(
            f"precision {str(precision)!r} needs sides that divide by {_SIDE_MULTIPLE}, "
            f"got a weight of {list(weight.shape)}"
        )


def merge(linears: Sequence[nn.Linear], precision: Precision, *, keeps_source: bool) -> Projection:
    """Merge linears without bias that read the same rows, their outputs side by side.

    The 16-bit linears become views of the merged weight. Quantised ones keep theirs only with
    `keeps_source`, and are empty otherwise: two copies of the model would not fit.
    """
    if precision is not Precision.BFLOAT16:
        return merge_into(linears, _QUANTIZED[precision], keeps_source=keeps_source)
    weight = _stack_weights(linears)
    parts = torch.split(weight, [each.out_features for each in linears])
    for linear, part in zip(linears, parts, strict=True):
        linear.weight.data = part
    return DenseProjection(weight)


def merge_into(
    linears: Sequence[nn.Linear], build: Callable[[Tensor], _Projection], *, keeps_source: bool
) -> _Projection:
    """Merge linears into what `build` makes of the merged weight, as `merge` quantised ones."""
    projection = build(_stack_weights(linears))
    if not keeps_source:
        for linear in linears:
            linear.weight.data = linear.weight.data.new_empty(0)
    return projection


def _stack_weights(linears: Sequence[nn.Linear]) -> Tensor:
    """Return the linears' weights one below the other; that of a single one is not copied."""
    weights = [linear.weight.data for linear in linears]
    return weights[0] if len(weights) == 1 else torch.cat(weights)
