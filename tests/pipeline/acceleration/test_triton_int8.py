"""The 8-bit product is exact in its sums, whatever shares it.

Without a GPU set TRITON_INTERPRET=1 for the whole run, as for `test_triton_kernels`.
"""

import pytest
import torch
import torch.nn.functional as F
from interpreted_loops import RUNS_KERNELS, interprets_loops
from torch import nn

from pipeline.acceleration.options import Precision
from pipeline.acceleration.projections import QuantizedRows, quantize_rows
from pipeline.errors import AccelerationUnavailableError

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds, or by `pip install`")
pytestmark = RUNS_KERNELS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


# The last has more tiles than an H200 runs at once.
@interprets_loops
@pytest.mark.parametrize("shape", [(5, 160, 48), (130, 64, 272), (300, 256, 512), (2180, 32, 2048)])
def test_a_product_has_the_integers_own_sums(shape: tuple[int, int, int]) -> None:
    from pipeline.acceleration.triton_int8 import multiply_int8

    num_rows, inner, num_cols = shape
    generator = torch.Generator().manual_seed(0)
    rows = quantize_rows(torch.randn(num_rows, inner, generator=generator).to(DEVICE), torch.int8)
    weight = quantize_rows(torch.randn(num_cols, inner, generator=generator).to(DEVICE), torch.int8)

    def multiply(count: slice) -> torch.Tensor:
        part = QuantizedRows(rows.values[count].contiguous(), rows.scales[count].contiguous())
        return multiply_int8(part, weight, torch.float32)

    product = multiply(slice(None))

    # In float64 products of 8-bit integers and their sums have no error.
    sums = (rows.values.double() @ weight.values.double().t()).float()
    assert torch.equal(product, sums * rows.scales * weight.scales.t())
    assert torch.equal(multiply(slice(-3, None)), product[-3:])


@interprets_loops
@pytest.mark.parametrize("shape", [(5, 160, 128), (130, 64, 384)])
def test_a_gated_product_is_the_product_of_the_halves_gated(shape: tuple[int, int, int]) -> None:
    from pipeline.acceleration.gated_projections import interleave_halves
    from pipeline.acceleration.triton_int8 import GATED_COLS, multiply_int8

    num_rows, inner, num_cols = shape
    generator = torch.Generator().manual_seed(0)
    rows = quantize_rows(torch.randn(num_rows, inner, generator=generator).to(DEVICE), torch.int8)
    weight = quantize_rows(torch.randn(num_cols, inner, generator=generator).to(DEVICE), torch.int8)
    interleaved = QuantizedRows(
        interleave_halves(weight.values, GATED_COLS), interleave_halves(weight.scales, GATED_COLS)
    )

    gated = multiply_int8(rows, interleaved, torch.float32, is_gated=True)

    opening, values = multiply_int8(rows, weight, torch.float32).chunk(2, dim=1)
    first = QuantizedRows(rows.values[:3].contiguous(), rows.scales[:3].contiguous())
    alone = multiply_int8(first, interleaved, torch.float32, is_gated=True)
    assert torch.equal(alone, gated[:3])
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


@interprets_loops
@pytest.mark.parametrize("width", [128, 96])
def test_a_merged_gate_frees_its_sources_and_gates_in_8_bits(width: int) -> None:
    from pipeline.acceleration.gated_projections import GatedByRows, merge_gated

    torch.manual_seed(0)
    halves = [nn.Linear(64, width, bias=False, device=DEVICE) for _ in range(2)]
    rows = torch.randn(5, 64, device=DEVICE)
    expected = F.silu(halves[0](rows)) * halves[1](rows)

    kept = merge_gated(halves, Precision.INT8, keeps_source=True)
    gated = merge_gated(halves, Precision.INT8, keeps_source=False)

    quantized = quantize_rows(rows, torch.int8)
    again = gated.quantized(quantized, torch.int8)
    assert isinstance(again, QuantizedRows)
    assert isinstance(gated, GatedByRows) == (width == 96)
    assert torch.equal(kept(quantized), gated(quantized))
    assert (gated(quantized) - expected).norm() < 0.03 * expected.norm()
    assert (again.values * again.scales - expected).norm() < 0.04 * expected.norm()
    assert all(half.weight.numel() == 0 for half in halves)


def test_a_merged_gate_refuses_sides_that_8_bits_do_not_take() -> None:
    from pipeline.acceleration.gated_projections import merge_gated

    halves = [nn.Linear(24, 128, bias=False, device=DEVICE) for _ in range(2)]

    with pytest.raises(AccelerationUnavailableError, match="divide by 16"):
        merge_gated(halves, Precision.INT8, keeps_source=True)
