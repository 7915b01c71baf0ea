"""Weights to a running step loop."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import torch.nn.functional as F

from pipeline.acceleration.attention import (
    AttentionKernel,
    build_attention,
    choose_attention,
)
from pipeline.acceleration.options import choose_acceleration
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.options import StepLoopOptions
from pipeline.denoising.preview import LatentPreview
from pipeline.denoising.transformer import PackedTransformer
from pipeline.device import ComputeDevice
from pipeline.networks import load_transformer, load_vae
from pipeline.schedule import build_schedule
from pipeline.weights import Weights

_FLUX_CHANNELS = [128, 256, 512, 512]


def load_step_loop(weights: Weights, compute: ComputeDevice, options: StepLoopOptions) -> StepLoop:
    """Read the transformer and start its loop.

    Raises:
        AttentionUnavailableError: If this machine cannot run the attention kernel.
        AccelerationUnavailableError: If it cannot run another of the options.
    """
    acceleration = choose_acceleration(options.acceleration, compute.device)
    attention = choose_attention(options.attention, compute.device)
    device = acceleration.choose_load_device(compute.device)
    with ThreadPoolExecutor(1) as beside:
        # Some kernels' libraries take as many seconds to import as weights do to read.
        kernels = beside.submit(_build_kernels, (attention.packed, attention.solo), compute.device)
        model = load_transformer(weights, device=device, dtype=compute.dtype)
        packed, solo = kernels.result()
    return StepLoop(
        PackedTransformer(
            model,
            packed,
            solo_attention=solo,
            is_strict=options.is_strict,
            acceleration=acceleration,
            device=compute.device,
        ),
        limits=options.limits,
        preview=load_preview(weights),
        schedule_of=partial(build_schedule, shift=weights.shift),
        num_threads=torch.get_num_threads() if compute.device.type == "cpu" else None,
    )


def _build_kernels(names: Sequence[str], device: torch.device) -> list[AttentionKernel]:
    if device.type == "cuda":
        torch.cuda.set_device(device)  # a thread begins with the first one
    return [build_attention(name, device) for name in names]


def load_preview(weights: Weights) -> LatentPreview:
    """Return FLUX's published map for its VAE; fit one to any other by decoding random blobs."""
    config = weights.component_config("vae", "config.json")
    if config.get("block_out_channels") == _FLUX_CHANNELS:
        return LatentPreview.of_flux_vae()
    vae = load_vae(weights, device=torch.device("cpu"), dtype=torch.float32)
    generator = torch.Generator("cpu").manual_seed(0)
    blobs = torch.randn(32, vae.config.latent_channels, 2, 2, generator=generator)
    latents = F.interpolate(blobs, size=(8, 8), mode="bilinear")
    with torch.inference_mode():
        scaled = latents / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(scaled, return_dict=False)[0]
    return LatentPreview.fit(latents, pixels.clone())
