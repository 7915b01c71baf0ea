"""Z-Image-Turbo's three networks at their true size, or tiny, with seeded random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from transformers import Qwen3Config, Qwen3Model

from pipeline.networks import load_tokenizer
from pipeline.weights import EMBEDDED, resolve_weights

TRUE_QWEN: dict[str, Any] = {
    "hidden_size": 2560,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 9728,
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
TINY_QWEN: dict[str, Any] = {
    **TRUE_QWEN,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 128,
    "vocab_size": 1024,
}
TINY_TRANSFORMER: dict[str, Any] = {
    "dim": 128,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 4,
    "n_kv_heads": 4,
    "cap_feat_dim": 64,
    "axes_dims": [8, 12, 12],
}


@dataclass
class TrueSizeModels:
    """What a folder of weights would hold."""

    tokenizer: Any
    """The embedded model's: the true one is not at hand, and its cost is small."""
    language_model: Any
    transformer: Any
    vae: Any
    device: torch.device
    dtype: torch.dtype
    is_tiny: bool


def build_true_size(device: torch.device, dtype: torch.dtype, *, is_tiny: bool) -> TrueSizeModels:
    """Build all three on the device."""
    return TrueSizeModels(
        load_tokenizer(resolve_weights(EMBEDDED)),
        build_language_model(device, dtype, is_tiny=is_tiny),
        build_transformer(device, dtype, is_tiny=is_tiny),
        build_vae(device, dtype, is_tiny=is_tiny),
        device,
        dtype,
        is_tiny,
    )


def build_language_model(device: torch.device, dtype: torch.dtype, *, is_tiny: bool = False) -> Any:
    """Build the text encoder's network."""
    config = Qwen3Config(**(TINY_QWEN if is_tiny else TRUE_QWEN))
    return _build(lambda: Qwen3Model(config), device, dtype)


def build_transformer(device: torch.device, dtype: torch.dtype, *, is_tiny: bool = False) -> Any:
    """Build the denoiser's network; its learned pads are not zero, as fresh ones are."""
    config = TINY_TRANSFORMER if is_tiny else {}
    transformer = _build(lambda: ZImageTransformer2DModel(**config), device, dtype)
    transformer.x_pad_token.normal_()
    transformer.cap_pad_token.normal_()
    return transformer


def build_vae(
    device: torch.device, dtype: torch.dtype, *, is_tiny: bool = False, has_encoder: bool = False
) -> Any:
    """Build FLUX's VAE; a decoder replica holds no encoder."""
    vae = _build(
        lambda: AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16) if is_tiny else (128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            norm_num_groups=4 if is_tiny else 32,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        ),
        device,
        dtype,
    )
    if not has_encoder:
        del vae.encoder
    return vae


def _build(construct: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = construct()
    finally:
        torch.set_default_dtype(torch.float32)
    return model.to(device, dtype).eval().requires_grad_(False)
