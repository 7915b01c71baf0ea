"""The decoder over exchangeable operations is diffusers' decoder."""

import os
from typing import Any

import pytest
import torch
from interpreted_loops import interprets_loops
from random_vae import build_vae
from torch import Tensor

from pipeline.acceleration.options import BlockKernels
from pipeline.memory import DecodeMode
from pipeline.networks import load_vae
from pipeline.vae.fitting import FittingVaeDecoder
from pipeline.vae.network import DecoderNetwork
from pipeline.vae.planes import TorchPlaneOps, build_fused_ops
from pipeline.vae.tiled import ALL_ON_DEVICE, TiledVaeDecoder, VaeTilingOptions
from pipeline.vae_decoder import FullImageVaeDecoder
from pipeline.weights import EMBEDDED, resolve_weights

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


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where fused operations run: a GPU, or in Triton's interpreter, where chunks run in turn."""
    pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("without a GPU, set TRITON_INTERPRET=1")
    from pipeline.vae import triton_planes

    monkeypatch.setattr(triton_planes, "_MAX_PARTS", 8)
    return "cpu"


def bound_on(device: str) -> float:
    return 3e-2 if device == "cuda" else 1e-4  # TF32 has ten bits of mantissa


@interprets_loops
@pytest.mark.parametrize("config", VARIANTS)
def test_with_fused_operations_it_computes_the_same(config: dict[str, Any], device: str) -> None:
    vae, latents = build_vae(**config).to(device), draw_latents(6, 10).to(device)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}

    with torch.inference_mode():
        decoded = DecoderNetwork(vae, build_fused_ops(vae))(latents)

    bound = bound_on(device)
    torch.testing.assert_close(decoded, decode(vae, latents), atol=bound, rtol=bound)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())


@interprets_loops
@pytest.mark.parametrize("device_bytes_per_latent", [0, ALL_ON_DEVICE])
def test_with_fused_operations_in_tiles_it_computes_the_same(
    device: str, device_bytes_per_latent: int
) -> None:
    vae, latents = build_vae(), draw_latents(20, 4)
    latents[..., :10, :] *= 3  # a tile's own statistics would be wrong
    options = VaeTilingOptions(
        tile_size=5, halo=13, device_bytes_per_latent=device_bytes_per_latent
    )
    expected = TiledVaeDecoder(vae, options).decode_image(latents)
    vae.to(device)

    decoded = TiledVaeDecoder(vae, options, build_fused_ops(vae)).decode_image(latents)

    bound = bound_on(device)
    torch.testing.assert_close(decoded, expected, atol=bound, rtol=bound)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="bfloat16 is computed in on GPUs")
@pytest.mark.parametrize("mode", [DecodeMode.FULL_IMAGE, DecodeMode.TILED])
def test_the_embedded_models_decoder_is_the_same_with_fused_operations(mode: DecodeMode) -> None:
    device = torch.device("cuda")
    vae = load_vae(resolve_weights(EMBEDDED), device=device, dtype=torch.bfloat16)
    options = VaeTilingOptions(tile_size=10)
    modules, fused = (
        FittingVaeDecoder(vae, mode=mode, kernels=kernels, options=options)
        for kernels in (BlockKernels.MODULES, BlockKernels.FUSED)
    )
    latents = draw_latents(24, 32)

    apart = (fused.decode(latents).float() - modules.decode(latents).float()).abs()

    assert float(apart.mean()) < 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are recorded on GPUs")
@torch.inference_mode()
def test_recorded_decodes_have_the_same_bytes() -> None:
    vae = build_vae().to("cuda")
    ops = build_fused_ops(vae)
    direct, recorded = FullImageVaeDecoder(vae, ops), FullImageVaeDecoder(vae, ops, records=True)
    sizes = [(6, 10), (10, 6), (6, 10), (10, 6), (6, 10), (10, 6)]
    latents = [draw_latents(*size) * (1 + index) for index, size in enumerate(sizes)]

    pixels = [recorded.decode(each) for each in latents]
    recorded.forget_recordings()
    pixels += [recorded.decode(each) for each in latents]

    expected = [direct.decode(each) for each in latents]
    assert all(map(torch.equal, pixels, 2 * expected))
