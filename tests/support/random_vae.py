"""A VAE of diffusers' own class with seeded weights in which no norm or bias is trivial."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn


def build_vae(act_fn: str = "silu", **config: Any) -> Any:
    torch.manual_seed(0)
    model = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
        act_fn=act_fn,
        latent_channels=16,
        scaling_factor=0.3611,
        **{
            "block_out_channels": [8, 8, 16, 16],
            "norm_num_groups": 4,
            "shift_factor": 0.1159,
            "use_post_quant_conv": False,
            **config,
        },
    )
    # Fresh norms are the identity and fresh biases small: neither may go unnoticed.
    for module in model.decoder.modules():
        randomise(module)
    return model.eval().requires_grad_(False)


def randomise(module: nn.Module) -> None:
    parameters = dict(module.named_parameters(recurse=False))
    if isinstance(module, nn.GroupNorm):
        nn.init.normal_(parameters["weight"], 1, 0.3)
    if isinstance(module, nn.GroupNorm | nn.Conv2d | nn.Linear):
        nn.init.normal_(parameters["bias"], 0, 0.3)
