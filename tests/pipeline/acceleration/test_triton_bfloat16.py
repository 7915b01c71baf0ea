"""A gated product is the product of its halves gated, whichever tiles are cut in two.

Without a GPU set TRITON_INTERPRET=1 for the whole run, as for `test_triton_kernels`.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from interpreted_loops import RUNS_KERNELS, interprets_loops
from torch import nn

from pipeline.acceleration.options import Precision

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds, or by `pip install`")
pytestmark = RUNS_KERNELS

IS_CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if IS_CUDA else "cpu")
DTYPE = torch.bfloat16 if IS_CUDA else torch.float32


def draw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    drawn: torch.Tensor = torch.randn(shape, generator=generator).to(DEVICE, DTYPE)
    return drawn / math.sqrt(shape[-1])


# Tiles that are all whole, all cut, and some of both; the last is a feed-forward's of 512x512.
@interprets_loops
@pytest.mark.parametrize(
    ("shape", "programs"),
    [((5, 160, 128), 1), ((5, 160, 128), 2), ((130, 64, 384), 4), ((300, 72, 256), 5)]
    + [((1120, 3840, 10_240), 132)] * IS_CUDA,
)
def test_a_gated_product_is_the_product_of_the_halves_gated(
    shape: tuple[int, int, int], programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.acceleration import triton_bfloat16
    from pipeline.acceleration.gated_projections import BFloat16GatedProjection

    monkeypatch.setattr(triton_bfloat16, "count_processors", lambda device: programs)
    num_rows, inner, num_cols = shape
    rows, weight = draw(num_rows, inner), draw(2 * num_cols, inner)

    project = BFloat16GatedProjection(weight)
    gated = project(rows)

    opening, values = (rows.float() @ weight.float().t()).chunk(2, dim=1)
    expected = F.silu(opening) * values
    assert gated.shape == (num_rows, num_cols)
    assert (gated - expected).norm() < 0.004 * expected.norm()
    for few in (slice(3), slice(-3, None)):
        # The interpreter multiplies by NumPy, whose bytes depend on a tile's shape.
        alone, tolerance = project(rows[few].contiguous()), 0.0 if IS_CUDA else 1e-6
        assert torch.allclose(alone, gated[few], rtol=tolerance, atol=tolerance)


@given(st.integers(0, 10_000), st.integers(1, 200))
def test_cut_tiles_never_take_longer_than_whole_ones(tiles: int, programs: int) -> None:
    from pipeline.acceleration.triton_bfloat16 import count_whole_tiles

    whole = count_whole_tiles(tiles, programs)

    def count_rounds(pieces: int) -> int:
        return -(-pieces // programs)

    assert 0 <= whole <= tiles
    cut = 2 * (tiles - whole)
    assert whole == tiles or whole % programs == 0
    assert count_rounds(whole) + 0.5 * count_rounds(cut) <= count_rounds(tiles)


@pytest.mark.skipif(not IS_CUDA, reason="no GPU to choose the kernel for")
def test_a_merged_gate_is_one_kernel_where_that_was_measured() -> None:
    from pipeline.acceleration.gated_projections import BFloat16GatedProjection, merge_gated

    halves = [nn.Linear(64, 256, bias=False, device=DEVICE, dtype=DTYPE) for _ in range(2)]
    rows = draw(7, 64)
    expected = F.silu(halves[0](rows)) * halves[1](rows)

    gated = merge_gated(halves, Precision.BFLOAT16, keeps_source=False)

    is_hopper = torch.cuda.get_device_capability() == (9, 0)
    assert isinstance(gated, BFloat16GatedProjection) == is_hopper
    assert (gated(rows) - expected).norm() < 0.01 * expected.norm()
    assert all((half.weight.numel() == 0) == is_hopper for half in halves)
