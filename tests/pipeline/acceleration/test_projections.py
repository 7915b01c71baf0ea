import pytest
import torch
from torch import nn

from pipeline.acceleration.options import Precision
from pipeline.acceleration.projections import (
    FLOAT8,
    QuantizedRows,
    merge,
    quantize_rows,
    split_rows,
)
from pipeline.errors import AccelerationUnavailableError


def test_a_merged_product_has_the_outputs_side_by_side() -> None:
    linears = [nn.Linear(32, width, bias=False) for width in (16, 48)]
    rows = torch.randn(5, 32)
    expected = torch.cat([linear(rows) for linear in linears], dim=1)

    merged = merge(linears, Precision.BFLOAT16, keeps_source=True)

    assert torch.allclose(merged(rows), expected, atol=1e-6)
    assert torch.allclose(linears[1](rows), expected[:, 16:], atol=1e-6)


def test_quantised_rows_stand_for_what_they_were() -> None:
    rows = torch.randn(7, 64) * torch.logspace(-3, 3, 7)[:, None]

    quantized = quantize_rows(rows, FLOAT8)

    restored = quantized.values.float() * quantized.scales
    # e4m3 has three bits of mantissa: half a step is a sixteenth.
    assert ((restored - rows).abs() <= rows.abs() / 16 + quantized.scales / 512).all()


def test_rows_in_integers_err_by_half_a_step() -> None:
    rows = torch.randn(7, 64) * torch.logspace(-3, 3, 7)[:, None]

    quantized = quantize_rows(rows, torch.int8)

    assert quantized.values.dtype is torch.int8
    restored = quantized.values.float() * quantized.scales
    assert ((restored - rows).abs() <= quantized.scales * 0.501).all()


@pytest.mark.parametrize("dtype", [FLOAT8, torch.int8])
def test_parts_of_rows_are_quantised_as_all_of_them_are(dtype: torch.dtype) -> None:
    rows = torch.randn(2500, 32)

    whole = quantize_rows(rows, dtype)

    parts = split_rows(whole, 1000)
    assert [part.values.shape[0] for part in parts if isinstance(part, QuantizedRows)] == [
        1000,
        1000,
        500,
    ]
    for part, source in zip(parts, split_rows(rows, 1000), strict=True):
        assert isinstance(part, QuantizedRows)
        assert isinstance(source, torch.Tensor)
        alone = quantize_rows(source, dtype)
        assert torch.equal(part.scales, alone.scales)
        assert torch.equal(part.values.float(), alone.values.float())


def test_eight_bit_weights_err_by_half_a_step_and_free_the_source() -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(64, width, bias=False) for width in (16, 48)]
    rows = torch.randn(5, 64)
    weight = torch.cat([linear.weight.data for linear in linears])
    steps = weight.abs().amax(dim=1) / 127

    merged = merge(linears, Precision.INT8_WEIGHTS, keeps_source=False)

    worst = rows.abs().sum(dim=1)[:, None] * steps / 2
    assert ((merged(rows) - rows @ weight.t()).abs() <= worst * 1.001).all()
    assert merged.shape == (64, 64)
    assert merged.reads is None
    assert all(linear.weight.numel() == 0 for linear in linears)


def test_a_weight_that_float8_cannot_multiply_is_refused_and_left_alone() -> None:
    linear = nn.Linear(340, 64, bias=False)

    with pytest.raises(AccelerationUnavailableError, match=r"divide by 16, got a weight of"):
        merge([linear], Precision.FLOAT8, keeps_source=False)

    assert linear.weight.shape == (64, 340)
