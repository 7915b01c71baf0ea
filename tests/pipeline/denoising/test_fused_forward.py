"""Merged and fused, a forward computes what the model's own modules compute.

Without a GPU set TRITON_INTERPRET=1 for the whole run, as for `test_triton_kernels`.
"""

import pytest
import torch
import torch.nn.functional as F
from interpreted_loops import RUNS_KERNELS, interprets_loops
from torch import Tensor

from pipeline.acceleration.attention import build_attention
from pipeline.acceleration.options import Acceleration, BlockKernels, Precision
from pipeline.denoising.transformer import PackedItem, PackedTransformer
from tests.pipeline.denoising.tiny import build_tiny_transformer, draw_encoding

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds, or by `pip install`")
pytestmark = RUNS_KERNELS

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
DTYPE = torch.bfloat16 if HAS_GPU else torch.float32
SHAPES = [(8, 16, 5, 0.1), (16, 8, 40, 0.7)]


def _pack(acceleration: Acceleration | None) -> PackedTransformer:
    model = build_tiny_transformer(DTYPE).to(DEVICE).requires_grad_(requires_grad=False)
    attention = build_attention("sdpa", DEVICE)
    return PackedTransformer(model, attention, acceleration=acceleration)


def _predict(transformer: PackedTransformer, residuals: dict[int, Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    items = [
        PackedItem(
            torch.randn(16, height, width, generator=generator),
            model_time,
            transformer.encode_caption(draw_encoding(num_tokens).prompt_embeds),
            residuals=residuals if num_tokens == SHAPES[0][2] else {},
        )
        for height, width, num_tokens, model_time in SHAPES
    ]
    return transformer.predict_velocity(items)


def _distance(one: list[Tensor], other: list[Tensor]) -> float:
    pairs = zip(one, other, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def test_a_large_picture_goes_through_feed_forwards_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fused = _pack(Acceleration(BlockKernels.FUSED, Precision.BFLOAT16))
    whole = _predict(fused, {})
    monkeypatch.setattr("pipeline.denoising.fused_forward._FEED_ROWS", 24)

    assert _distance(_predict(fused, {}), whole) < 1e-2


@pytest.mark.parametrize("layers", [(), (0,), (0, 1)])
def test_fused_blocks_compute_what_modules_compute(layers: tuple[int, ...]) -> None:
    residuals = {layer: torch.full((64, 64), 0.5, dtype=DTYPE, device=DEVICE) for layer in layers}
    fused = _pack(Acceleration(BlockKernels.FUSED, Precision.BFLOAT16))

    distance = _distance(_predict(fused, residuals), _predict(_pack(None), residuals))

    assert distance < (0.02 if HAS_GPU else 1e-5)


def test_products_that_depend_on_company_are_exchanged_for_those_that_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.denoising import fused_forward, triton_linear

    model = build_tiny_transformer(DTYPE, dim=96, n_heads=3).to(DEVICE)
    acceleration = Acceleration(BlockKernels.FUSED, Precision.BFLOAT16)
    blocks = fused_forward.fuse_blocks(model, acceleration, DEVICE, keeps_source=False)
    multiply = F.linear

    def depend_on_company(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return multiply(rows, weight, bias) + (rows.shape[0] < 64)

    monkeypatch.setattr(F, "linear", depend_on_company)
    # Without a GPU it is float32.
    monkeypatch.setattr(triton_linear, "multiplies", lambda _: True)

    shared = fused_forward.share_blocks(model, blocks, DEVICE, (32, 64))

    assert shared is not None
    assert set(shared) == {id(block) for block in (*model.noise_refiner, *model.layers)}
    for projection in shared[id(model.layers[1])].projections:
        rows = torch.randn(64, projection.shape[1], device=DEVICE, dtype=DTYPE)
        assert torch.equal(projection(rows[:32]), projection(rows)[:32])


@pytest.mark.skipif(not HAS_GPU, reason="products of float8 need a GPU")
def test_float8_is_near_and_layers_that_stay_are_exact() -> None:
    plain = _predict(_pack(Acceleration(BlockKernels.FUSED, Precision.BFLOAT16)), {})
    # The tiny model's feed-forward is 340 wide, which float8 products cannot be.
    float8 = Acceleration(BlockKernels.FUSED, Precision.FLOAT8, ("*.feed_forward.*",))
    kept = Acceleration(BlockKernels.FUSED, Precision.FLOAT8, ("*",))

    assert 0 < _distance(_predict(_pack(float8), {}), plain) < 0.1
    assert _distance(_predict(_pack(kept), {}), plain) == 0


@interprets_loops
def test_int8_is_nearer_than_float8_and_its_sums_are_exact() -> None:
    plain = _predict(_pack(Acceleration(BlockKernels.FUSED, Precision.BFLOAT16)), {})
    # The tiny model's feed-forward is 340 wide, which 8-bit products cannot be.
    int8 = Acceleration(BlockKernels.FUSED, Precision.INT8, ("*.feed_forward.*",))
    transformer = _pack(int8)

    assert 0 < _distance(_predict(transformer, {}), plain) < 0.03
    assert transformer.shares_forwards
