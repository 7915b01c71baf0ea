"""The VAE's decoder half: latents to pixels."""

from typing import Final

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from pipeline.acceleration.graphs import GraphedForward
from pipeline.device import ComputeDevice, copy_to_host
from pipeline.errors import OutOfMemoryError
from pipeline.vae.network import DecoderNetwork
from pipeline.vae.planes import PlaneOps, TorchPlaneOps

MAX_RECORDED_LATENTS: Final = 128 * 128
"""Kernels of larger pictures run longer than the host takes to launch them."""
_MAX_GRAPHS: Final = 16


class FullImageVaeDecoder:
    """Decodes a picture in one piece.

    With `records`, which needs a GPU, small pictures are decoded by recorded graphs, which share as
    much memory as the largest of them takes.
    """

    def __init__(
        self, vae: AutoencoderKL, ops: PlaneOps | None = None, *, records: bool = False
    ) -> None:
        self._vae = vae
        self._compute = compute_of(vae)
        self._network = DecoderNetwork(vae, ops or TorchPlaneOps())
        self._graphs: GraphedForward[Tensor] | None = None
        if records:
            self._graphs = GraphedForward(self._draw, max_graphs=_MAX_GRAPHS)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode [1, 16, H/8, W/8] float32 latents into [H, W, 3] uint8 pixels on the CPU.

        Raises:
            OutOfMemoryError: If the picture does not fit on the device.
        """
        try:
            on_device = latents.to(self._compute.device, non_blocking=latents.is_pinned())
            return copy_to_host(self._run(on_device))
        except torch.OutOfMemoryError as exc:
            raise OutOfMemoryError(
                f"decoding latents of shape {tuple(latents.shape)} did not fit"
            ) from exc

    def forget_recordings(self) -> None:
        """Give the memory of recorded graphs back."""
        if self._graphs is not None:
            self._graphs.forget()

    def _run(self, latents: Tensor) -> Tensor:
        num_latents = latents.shape[-2] * latents.shape[-1]
        if self._graphs is None or num_latents > MAX_RECORDED_LATENTS:
            return self._draw(latents)
        return self._graphs(latents, latents.shape)

    def _draw(self, latents: Tensor) -> Tensor:
        scaled = to_vae_scale(latents, self._vae).to(self._compute.dtype)
        return round_colours(self._network(scaled))


def compute_of(vae: AutoencoderKL) -> ComputeDevice:
    """Say where a VAE computes, and in what: diffusers' own properties walk through all modules."""
    weight = vae.decoder.conv_in.weight
    return ComputeDevice(weight.device, weight.dtype)


def to_vae_scale(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """Undo the scale and shift that the denoiser's latents have against the VAE's."""
    scaled: Tensor = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)
    return scaled


def round_colours(image: Tensor) -> Tensor:
    """Turn a [1, 3, H, W] picture in [-1, 1] into [H, W, 3] uint8, as diffusers does."""
    unit = (image[0].float() * 0.5 + 0.5).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def to_uint8(image: Tensor) -> Tensor:
    """Do what `round_colours` does, and bring the pixels to the CPU."""
    return copy_to_host(round_colours(image))
