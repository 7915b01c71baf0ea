"""Fused kernels compute what the model's modules compute.

Triton reads TRITON_INTERPRET when it is first imported, which other tests' libraries may do: it is
set for the whole run, and then the kernels run on the CPU.
"""

from types import ModuleType

import pytest
import torch
from diffusers.models.normalization import RMSNorm
from interpreted_loops import RUNS_KERNELS
from torch import Tensor

from pipeline.acceleration.attention import layout_sequences
from pipeline.denoising.positions import RotaryEmbedder
from pipeline.denoising.row_ops import PackedRows, TorchRowOps

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds, or by `pip install`")
pytestmark = RUNS_KERNELS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTHS = [32, 64]
DIM, HEADS = 96, 3


@pytest.fixture(scope="module")
def triton_row_ops() -> ModuleType:
    from pipeline.denoising import triton_row_ops

    return triton_row_ops


@pytest.fixture
def rows() -> PackedRows:
    rotary = RotaryEmbedder(theta=256.0, axes_dims=(8, 12, 12)).embed_caption(96)
    item_of_row = torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor(LENGTHS)).int()
    return PackedRows(layout_sequences(LENGTHS, DEVICE), item_of_row.to(DEVICE), rotary.to(DEVICE))


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def _norm(dim: int) -> RMSNorm:
    module = RMSNorm(dim, eps=1e-5).to(DEVICE)
    module.weight.data = 1 + _draw(dim, seed=9) / 4
    return module.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("has_factors", [False, True])
def test_norm(triton_row_ops: ModuleType, rows: PackedRows, has_factors: bool) -> None:
    hidden, module = _draw(96, DIM), _norm(DIM)
    # A slice of a larger table, as the modulation of one block is.
    factors = [None, _draw(2, 4, DIM, seed=1)[:, 1]][has_factors]

    fused = triton_row_ops.TritonRowOps().norm(module, hidden, factors, rows)

    assert torch.allclose(fused, TorchRowOps().norm(module, hidden, factors, rows), atol=1e-5)


def test_norm_without_weight(triton_row_ops: ModuleType, rows: PackedRows) -> None:
    module = torch.nn.LayerNorm(DIM, elementwise_affine=False)
    hidden, factors = _draw(96, DIM), _draw(2, DIM, seed=1)

    fused = triton_row_ops.TritonRowOps().norm(module, hidden, factors, rows)

    assert torch.allclose(fused, TorchRowOps().norm(module, hidden, factors, rows), atol=1e-5)


@pytest.mark.parametrize("has_factors", [False, True])
def test_add_normed(triton_row_ops: ModuleType, rows: PackedRows, has_factors: bool) -> None:
    hidden, update, module = _draw(96, DIM), _draw(96, DIM, seed=2), _norm(DIM)
    factors = [None, _draw(2, 4, DIM, seed=1)[:, 3]][has_factors]
    expected = TorchRowOps().add_normed(module, hidden, update, factors, rows)

    fused = triton_row_ops.TritonRowOps().add_normed(module, hidden, update, factors, rows)

    assert torch.allclose(fused, expected, atol=1e-5)


def test_rotate_normed(triton_row_ops: ModuleType, rows: PackedRows) -> None:
    heads, module = _draw(96, HEADS, DIM // HEADS), _norm(DIM // HEADS)
    expected = TorchRowOps().rotate_normed(module, heads, rows)

    fused = triton_row_ops.TritonRowOps().rotate_normed(module, heads, rows)

    assert torch.allclose(fused, expected, atol=1e-5)


def test_gate(triton_row_ops: ModuleType, rows: PackedRows) -> None:
    gate, hidden = _draw(96, 170), _draw(96, 170, seed=1)
    expected = TorchRowOps().gate(gate.clone(), hidden, rows)

    fused = triton_row_ops.TritonRowOps().gate(gate, hidden, rows)

    assert torch.allclose(fused, expected, atol=1e-6)


@pytest.mark.parametrize(("num_rows", "inner", "cols"), [(40, 64, 64), (300, 192, 320)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_matrix_product(num_rows: int, inner: int, cols: int, has_bias: bool) -> None:
    from pipeline.denoising.triton_linear import multiply_rows

    # Blocks are sized for 16 bits: in float32 they are larger than a GPU's shared memory.
    dtype, bound = (torch.bfloat16, 5e-2) if DEVICE.type == "cuda" else (torch.float32, 1e-4)
    hidden = _draw(num_rows, inner).to(dtype)
    weight = (_draw(cols, inner, seed=1) / inner**0.5).to(dtype)
    bias = [None, _draw(cols, seed=2).to(dtype)][has_bias]

    product = multiply_rows(hidden, weight, bias)

    assert torch.allclose(product, torch.nn.functional.linear(hidden, weight, bias), atol=bound)


@pytest.mark.parametrize(
    ("num_rows", "num_cols", "tile_cols"),
    [(128, 3840, 64), (256, 3840, 64), (384, 3840, 128), (512, 3840, 128), (1024, 3840, 256)],
)
def test_few_rows_keep_a_hopper_gpu_busy_with_narrow_tiles(
    num_rows: int, num_cols: int, tile_cols: int
) -> None:
    from pipeline.denoising.triton_linear import choose_tile_cols

    assert choose_tile_cols(num_rows, num_cols, 132) == tile_cols
    assert choose_tile_cols(num_rows, 64, 132) == 64


class CompanyLinear(torch.nn.Linear):
    """A library's product that takes another kernel below 64 rows, and the fixed one from there."""

    def forward(self, rows: Tensor) -> Tensor:
        from pipeline.denoising.triton_linear import multiply_rows

        return multiply_rows(rows, self.weight, None) + (rows.shape[0] < 64)


def test_the_library_multiplies_only_where_it_has_the_bytes_of_the_fixed_kernel() -> None:
    from pipeline.denoising.triton_linear import RowInvariantRowOps, multiply_rows

    # Nothing is added up, so that the order of summation cannot differ.
    linear = CompanyLinear(64, 64, bias=False).to(DEVICE)
    linear.weight.data = torch.eye(64, device=DEVICE)
    ops = RowInvariantRowOps([linear], range(32, 129, 32))
    few, many = torch.ones(32, 64, device=DEVICE), torch.ones(64, 64, device=DEVICE)
    calls: list[int] = []
    linear.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape[0]))

    assert torch.equal(ops.linear(linear, few), multiply_rows(few, linear.weight, None))
    assert torch.equal(ops.linear(linear, many), multiply_rows(many, linear.weight, None))
    assert calls == [64]
