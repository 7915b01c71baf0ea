"""A cheap picture of latents: one linear map from latent channels to colours.

A preview is made on the way of a denoising run, where the VAE would cost more than the step.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.device_errors import is_device_lost
from pipeline.request import LATENT_SCALE

_logger = logging.getLogger(__name__)

_FLUX_FACTORS: Final = (
    (-0.0346, 0.0244, 0.0681),
    (0.0034, 0.0210, 0.0687),
    (0.0275, -0.0668, -0.0433),
    (-0.0174, 0.0160, 0.0617),
    (0.0859, 0.0721, 0.0329),
    (0.0004, 0.0383, 0.0115),
    (0.0405, 0.0861, 0.0915),
    (-0.0236, -0.0185, -0.0259),
    (-0.0245, 0.0250, 0.1180),
    (0.1008, 0.0755, -0.0421),
    (-0.0515, 0.0201, 0.0011),
    (0.0428, -0.0012, -0.0036),
    (0.0817, 0.0765, 0.0749),
    (-0.1264, -0.0522, -0.1103),
    (-0.0280, -0.0881, -0.0499),
    (-0.1262, -0.0982, -0.0778),
)
_FLUX_BIAS: Final = (-0.0329, -0.0718, -0.0851)


@dataclass(frozen=True, eq=False)
class LatentPreview:
    """Colours in [-1, 1] as `latents @ factors + bias`."""

    factors: Tensor
    """[channels, 3] float32."""
    bias: Tensor
    """[3] float32."""
    _copies: dict[torch.device, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    @classmethod
    def of_flux_vae(cls) -> Self:
        """Return the map for FLUX's VAE, which is Z-Image's.

        The numbers are ComfyUI's (`comfy/latent_formats.py`, `Flux.latent_rgb_factors`), fitted to
        latents as the denoiser has them: scaled and shifted.
        """
        return cls(torch.tensor(_FLUX_FACTORS), torch.tensor(_FLUX_BIAS))

    @classmethod
    def fit(cls, latents: Tensor, pixels: Tensor) -> Self:
        """Fit the map to a VAE by least squares.

        Args:
            latents: [n, channels, h, w], as the denoiser has them.
            pixels: [n, 3, 8 h, 8 w] in [-1, 1], what the VAE decodes them to.
        """
        channels = latents.shape[1]
        inputs = latents.float().permute(0, 2, 3, 1).reshape(-1, channels)
        colours = F.avg_pool2d(pixels.float(), LATENT_SCALE).permute(0, 2, 3, 1).reshape(-1, 3)
        with_bias = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        solution = torch.linalg.lstsq(with_bias, colours).solution
        return cls(solution[:-1], solution[-1])

    def draw(self, latents: Tensor) -> Tensor:
        """Turn [channels, h, w] latents into [3, h, w] uint8 pixels on the CPU."""
        return self.draw_on_device(latents).cpu()

    def draw_on_device(self, latents: Tensor) -> Tensor:
        """Do the same where the latents are, without waiting for them."""
        factors, bias = self._at(latents.device)
        colours = torch.einsum("chw,cr->rhw", latents, factors) + bias[:, None, None]
        return ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    def _at(self, device: torch.device) -> tuple[Tensor, Tensor]:
        # Kept, since to copy something to a device waits for all that it has to do.
        if device not in self._copies:
            self._copies[device] = self.factors.to(device), self.bias.to(device)
        return self._copies[device]


def choose_preview_steps(num_inference_steps: int, num_previews: int) -> frozenset[int]:
    """Choose after which steps, from 1, to make a preview: evenly spaced, the last step never."""
    between = range(1, num_previews + 1)
    steps = {index * num_inference_steps // (num_previews + 1) for index in between}
    return frozenset(steps - {0})


@contextmanager
def previews_may_fail(request_id: str) -> Iterator[None]:
    """Log what drawing a preview fails with, and go on: the picture is worth more.

    Raises:
        torch.AcceleratorError: If the device itself failed.
    """
    try:
        yield
    except Exception as exc:
        if is_device_lost(exc):
            raise
        _logger.warning("a preview of %s is left out: %s", request_id, type(exc).__name__)
