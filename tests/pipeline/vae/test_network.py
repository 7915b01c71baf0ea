"""The decoder over exchangeable operations is diffusers' decoder."""

import os
from typing import Any

import pytest
import torch
from random_vae import build_vae
from torch import Tensor

from pipeline.vae.network import DecoderNetwork
from pipeline.vae.planes import TorchPlaneOps

VARIANTS: list[dict[str, Any]] = [
    {},
    {"use_post_quant_conv": True},
    {"mid_block_add_attention": False},
    {"block_out_channels": [16, 8, 24, 24]},
]


def draw_latents(height: int, width: int) -> Tensor:
    return torch.randn(1, 16, height, width, generator=torch.Generator().manual_seed(4))


@torch.inference_mode()
def decode(vae: Any, latents: Tensor) -> Tensor:
    decoded: Tensor = vae.decode(latents, return_dict=False)[0]
    return decoded


@pytest.mark.parametrize("config", VARIANTS)
def test_with_the_models_own_modules_it_has_the_same_bytes(config: dict[str, Any]) -> None:
    vae, latents = build_vae(**config), draw_latents(12, 20)

    with torch.inference_mode():
        decoded = DecoderNetwork(vae, TorchPlaneOps())(latents)

    assert torch.equal(decoded, decode(vae, latents))


def test_another_kind_of_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="resnets must be GroupNorm, SiLU and convolutions"):
        DecoderNetwork(build_vae(act_fn="gelu"), TorchPlaneOps())


@pytest.mark.skipif(
    not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
    reason="without a GPU, set TRITON_INTERPRET=1",
)
@pytest.mark.parametrize("config", VARIANTS)
def test_with_fused_operations_it_computes_the_same(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")
    from pipeline.vae import triton_planes
    from pipeline.vae.fused_planes import FusedPlaneOps

    monkeypatch.setattr(triton_planes, "_MAX_PARTS", 8)  # the interpreter runs them in turn
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae, latents = build_vae(**config).to(device), draw_latents(6, 10).to(device)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}

    with torch.inference_mode():
        decoded = DecoderNetwork(vae, FusedPlaneOps(vae.decoder))(latents)

    bound = 3e-2 if device == "cuda" else 1e-4  # TF32 has ten bits of mantissa
    torch.testing.assert_close(decoded, decode(vae, latents), atol=bound, rtol=bound)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())
