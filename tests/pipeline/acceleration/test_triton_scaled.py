"""The 8-bit product is exact in its sums, whatever shares it.

Without a GPU set TRITON_INTERPRET=1 for the whole run, as for `test_triton_kernels`.
"""

import os

import pytest
import torch
import torch.nn.functional as F
from interpreted_loops import INTERPRETED_LOOPS

from pipeline.acceleration.projections import QuantizedRows, quantize_rows

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds, or by `pip install`")
pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
        reason="without a GPU, set TRITON_INTERPRET=1",
    ),
    *INTERPRETED_LOOPS,
]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("shape", [(5, 160, 48), (130, 64, 272), (300, 256, 512)])
def test_a_product_has_the_integers_own_sums(shape: tuple[int, int, int]) -> None:
    from pipeline.acceleration.triton_scaled import multiply_scaled

    num_rows, inner, num_cols = shape
    generator = torch.Generator().manual_seed(0)
    rows = quantize_rows(torch.randn(num_rows, inner, generator=generator).to(DEVICE), torch.int8)
    weight = quantize_rows(torch.randn(num_cols, inner, generator=generator).to(DEVICE), torch.int8)

    def multiply(count: slice) -> torch.Tensor:
        part = QuantizedRows(rows.values[count].contiguous(), rows.scales[count].contiguous())
        return multiply_scaled(part, weight, torch.float32)

    product = multiply(slice(None))

    # In float64 products of 8-bit integers and their sums have no error.
    sums = (rows.values.double() @ weight.values.double().t()).float()
    assert torch.equal(product, sums * rows.scales * weight.scales.t())
    assert torch.equal(multiply(slice(-3, None)), product[-3:])


@pytest.mark.parametrize("shape", [(5, 160, 128), (130, 64, 384)])
def test_a_gated_product_is_the_product_of_the_halves_gated(shape: tuple[int, int, int]) -> None:
    from pipeline.acceleration.triton_scaled import interleave_halves, multiply_scaled

    num_rows, inner, num_cols = shape
    generator = torch.Generator().manual_seed(0)
    rows = quantize_rows(torch.randn(num_rows, inner, generator=generator).to(DEVICE), torch.int8)
    weight = quantize_rows(torch.randn(num_cols, inner, generator=generator).to(DEVICE), torch.int8)
    interleaved = QuantizedRows(interleave_halves(weight.values), interleave_halves(weight.scales))

    gated = multiply_scaled(rows, interleaved, torch.float32, is_gated=True)

    opening, values = multiply_scaled(rows, weight, torch.float32).chunk(2, dim=1)
    assert gated.shape == (num_rows, num_cols // 2)
    assert torch.allclose(gated, F.silu(opening) * values, rtol=1e-5, atol=1e-6)


def test_row_kernels_write_integers() -> None:
    from pipeline.acceleration import triton_rows

    hidden = torch.randn(9, 96, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    expected = quantize_rows(hidden, torch.int8)

    quantized = triton_rows.quantize(hidden, torch.int8)

    assert torch.allclose(quantized.scales, expected.scales, rtol=1e-6)
    assert (quantized.values.int() - expected.values.int()).abs().max() <= 1
    assert (quantized.values == expected.values).float().mean() > 0.99
