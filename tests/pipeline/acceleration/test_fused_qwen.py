"""Merged and fused, Qwen3 computes what its own modules compute.

Without a GPU set TRITON_INTERPRET=1 for the whole run, as for `test_triton_kernels`.
"""

import copy
from typing import Any

import pytest
import torch
from interpreted_loops import INTERPRETED_LOOPS, RUNS_KERNELS
from transformers import Qwen3Config, Qwen3Model

from pipeline.acceleration.options import Acceleration, BlockKernels, Precision

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds, or by `pip install`")
pytestmark = RUNS_KERNELS

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
DTYPE = torch.bfloat16 if HAS_GPU else torch.float32
BOUNDS = {
    Precision.BFLOAT16: 0.02 if HAS_GPU else 1e-5,
    Precision.FLOAT8: 0.1,
    Precision.INT8: 0.03,
    Precision.INT8_WEIGHTS: 0.03,
}


def _build(head_dim: int = 64) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        intermediate_size=256,
        vocab_size=512,
        rope_theta=1e6,
    )
    model = Qwen3Model(config).to(DEVICE, DTYPE).eval().requires_grad_(requires_grad=False)
    model.norm = torch.nn.Identity()
    for layer in model.layers:
        layer.input_layernorm.weight.normal_(1.0, 0.1)
        layer.self_attn.q_norm.weight.normal_(1.0, 0.1)
        layer.self_attn.k_norm.weight.normal_(1.0, 0.1)
    return model


@pytest.mark.parametrize("num_tokens", [5, 32, 70])
@pytest.mark.parametrize(
    "precision",
    [
        pytest.param(each, marks=INTERPRETED_LOOPS if each is Precision.INT8 else ())
        for each in Precision
    ],
)
def test_fused_layers_compute_what_modules_compute(num_tokens: int, precision: Precision) -> None:
    if precision is Precision.FLOAT8 and not HAS_GPU:
        pytest.skip("float8 products need a GPU")
    from pipeline.acceleration.fused_qwen import FusedQwen

    model = _build()
    token_ids = torch.randint(512, (num_tokens,), generator=torch.Generator().manual_seed(1))
    fused = FusedQwen(copy.deepcopy(model), Acceleration(BlockKernels.FUSED, precision), DEVICE)

    first, again = (fused.encode(token_ids).clone() for _ in range(2))

    expected = model(input_ids=token_ids[None].to(DEVICE), use_cache=False).last_hidden_state[0]
    distance = float((first - expected).float().norm() / expected.float().norm())
    assert distance < BOUNDS[precision]
    assert torch.equal(again, first)


def test_heads_of_any_size_are_turned() -> None:
    from pipeline.acceleration.fused_qwen import FusedQwen

    model, token_ids = _build(head_dim=48), torch.arange(40)
    acceleration = Acceleration(BlockKernels.FUSED, Precision.BFLOAT16)

    hidden = FusedQwen(copy.deepcopy(model), acceleration, DEVICE).encode(token_ids)

    expected = model(input_ids=token_ids[None].to(DEVICE), use_cache=False).last_hidden_state[0]
    distance = float((hidden - expected).float().norm() / expected.float().norm())
    assert distance < BOUNDS[Precision.BFLOAT16]
