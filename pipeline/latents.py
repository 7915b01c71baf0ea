"""Noise, and the change of scale between the denoiser's latents and the VAE's."""

import torch
from torch import Tensor

from pipeline.request import ImageSize

LATENT_CHANNELS = 16


def draw_noise(size: ImageSize, *, seed: int) -> Tensor:
    """Draw the latents that denoising starts from.

    Drawn on the CPU in float32, one image at a time, so that a seed gives the same noise on every
    GPU of the cluster and whatever it is batched with.

    Returns:
        A [1, 16, H/8, W/8] tensor.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, LATENT_CHANNELS, size.latent_height, size.latent_width)
    return torch.randn(shape, generator=generator, dtype=torch.float32)
