"""Noise, and the change of scale between the denoiser's latents and the VAE's."""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from pipeline.request import ImageSize

LATENT_CHANNELS: Final = 16

_TORCH_SEEDS: Final = 2**32
"""Seeds that PyTorch's Mersenne Twister tells apart."""


def draw_noise(size: ImageSize, *, seed: int, pins: bool = False) -> Tensor:
    """Draw the latents that denoising starts from.

    Drawn on the CPU in float32, one image at a time, so that a seed gives the same noise on every
    GPU of the cluster and whatever it is batched with. Seeds below 2^32 give what
    `torch.Generator("cpu").manual_seed(seed)` gives; it ignores all higher bits of a seed, so from
    there on the noise is NumPy's, of Philox with the whole seed as its key.

    Returns:
        A [1, 16, H/8, W/8] tensor, in pinned memory with `pins`.
    """
    shape = (1, LATENT_CHANNELS, size.latent_height, size.latent_width)
    noise = torch.empty(shape, dtype=torch.float32, pin_memory=pins)
    if seed < _TORCH_SEEDS:
        return noise.normal_(generator=torch.Generator("cpu").manual_seed(seed))
    wide = np.random.Generator(np.random.Philox(key=seed))
    wide.standard_normal(dtype=np.float32, out=noise.numpy())
    return noise
