"""Train the VAE on drawings, and measure the scale of its latents."""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from pipeline.embedded.scenes.rendering import Drawing, render
from pipeline.embedded.training.feed import BatchShape
from pipeline.embedded.training.optimizer import FlatOptimizer, OptimizerSettings
from pipeline.embedded.training.ranks import Ranks
from pipeline.embedded.training.rates import cosine_rate

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VaeSettings:
    """How long and how hard."""

    steps: int
    learning_rate: float = 2e-3
    absolute_weight: float = 0.3
    divergence_weight: float = 1e-3
    num_measured: int = 64
    """Batches that the scale of the latents is measured on."""


def train_vae(
    vae: AutoencoderKL,
    drawings: Iterator[tuple[BatchShape, Drawing]],
    settings: VaeSettings,
    ranks: Ranks,
) -> None:
    """Train in place, then write scale and shift of the latents into the configuration."""
    optimizer = FlatOptimizer([], vae.parameters(), OptimizerSettings(), ranks.average)
    for step, (shape, drawing) in enumerate(itertools.islice(drawings, settings.steps)):
        images = render(drawing, shape.height, shape.width, ranks.device)
        images = images.to(vae.dtype, memory_format=torch.channels_last)
        squared, loss = _loss(vae, images, settings)
        torch.autograd.backward(loss)
        optimizer.step(settings.learning_rate * cosine_rate(step, settings.steps))
        if step % 100 == 0 or step == settings.steps - 1:
            psnr = 10 * torch.log10(4 / squared).item()
            _logger.info("vae step %d loss %.5f sampled psnr %.2f dB", step, loss.item(), psnr)
    optimizer.publish_average()
    _measure(vae, itertools.islice(drawings, settings.num_measured), ranks)


def _loss(vae: AutoencoderKL, images: Tensor, settings: VaeSettings) -> tuple[Tensor, Tensor]:
    posterior = vae.encode(images).latent_dist
    error = vae.decode(posterior.sample()).sample.float() - images.float()
    squared = error.square().mean()
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    loss = squared + settings.absolute_weight * error.abs().mean()
    return squared.detach(), loss + settings.divergence_weight * divergence


@torch.no_grad()
def encode(
    vae: AutoencoderKL,
    images: Tensor,
    *,
    encoder: Callable[[Tensor], Tensor] | None = None,
    max_pixels: int = 2**22,
) -> Tensor:
    """Encode [B, 3, H, W] into float32 latents of mean 0 and deviation 1, a slice at a time.

    Args:
        vae: Whose latents they are.
        images: In [-1, 1].
        encoder: The VAE's own, compiled.
        max_pixels: Of a slice.
    """
    count = max(1, max_pixels // (images.shape[2] * images.shape[3]))
    run = vae.encoder if encoder is None else encoder
    pieces = [
        run(piece.to(vae.dtype, memory_format=torch.channels_last)).chunk(2, dim=1)[0]
        for piece in torch.split(images, count)
    ]
    latents: Tensor = torch.cat(pieces).float()
    return latents.sub(vae.config.shift_factor).mul(vae.config.scaling_factor)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, *, count: int = 32) -> Tensor:
    """Decode latents as the pipeline does into [B, 3, H, W] float32 images."""
    scaled = latents / vae.config.scaling_factor + vae.config.shift_factor
    pieces = [
        vae.decode(piece.to(vae.dtype)).sample.float() for piece in torch.split(scaled, count)
    ]
    return torch.cat(pieces)


def measure_psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Return the peak signal-to-noise ratio of a round trip, in dB."""
    restored = decode(vae, encode(vae, images)).clamp(-1, 1)
    return float(10 * torch.log10(4 / F.mse_loss(restored, images)))


@torch.no_grad()
def _measure(
    vae: AutoencoderKL, drawings: Iterator[tuple[BatchShape, Drawing]], ranks: Ranks
) -> None:
    vae.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    moments = torch.zeros(2, device=ranks.device)
    count = 0
    for shape, drawing in drawings:
        latents = encode(vae, render(drawing, shape.height, shape.width, ranks.device))
        moments += torch.stack([latents.mean(), latents.square().mean()])
        count += 1
    moments /= count
    ranks.average(moments)
    mean, square = moments.tolist()
    deviation = (square - mean**2) ** 0.5
    vae.register_to_config(shift_factor=mean, scaling_factor=1 / deviation)
    _logger.info("latents: mean %.4f, deviation %.4f", mean, deviation)
