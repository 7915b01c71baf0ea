"""Z-Image-Turbo's transformer and VAE with random weights, at true size or tiny."""

from typing import Any

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel

TINY_TRANSFORMER = {
    "dim": 48,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "cap_feat_dim": 16,
    "axes_dims": [8, 8, 8],
    "axes_lens": [128, 512, 512],
}


def build_transformer(device: str, dtype: torch.dtype, *, is_tiny: bool) -> Any:
    """Build straight on the device in its final precision: a float32 copy would not fit."""
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = ZImageTransformer2DModel(**(TINY_TRANSFORMER if is_tiny else {}))
    torch.set_default_dtype(torch.float32)
    # The class leaves the learned pads as they lay in memory.
    for pad in (model.x_pad_token, model.cap_pad_token):
        torch.nn.init.normal_(pad)
    return model.eval()


def build_vae(device: str, dtype: torch.dtype, *, is_tiny: bool) -> Any:
    """Build FLUX's VAE, without the encoder that a decoder replica does not hold."""
    with torch.device(device):
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[8, 8, 16, 16] if is_tiny else [128, 256, 512, 512],
            layers_per_block=2,
            latent_channels=16,
            norm_num_groups=4 if is_tiny else 32,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        )
    del vae.encoder
    return vae.to(dtype).eval()
