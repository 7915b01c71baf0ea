"""Stages over random weights that each replica builds on its own device: no file is read."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from true_size import build_language_model, build_transformer, build_vae

from cluster.cost import Z_IMAGE
from deployments.cache_config import CacheConfig
from deployments.config import PoolConfig, ReplicaConfig, TextEncoderConfig, VaeDecoderConfig
from deployments.loading import StageLoader, fingerprint
from deployments.memory_plan import memory_of
from deployments.served_model import ServedModel
from deployments.tile_coordinator import TiledSettings
from pipeline.acceleration.attention import build_attention, choose_attention
from pipeline.acceleration.options import Acceleration, AccelerationOptions, choose_acceleration
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.preview import LatentPreview
from pipeline.denoising.transformer import PackedTransformer
from pipeline.device import ComputeDevice, choose_device
from pipeline.device_memory import cap_memory
from pipeline.networks import load_tokenizer
from pipeline.request import ImageSize
from pipeline.schedule import build_schedule
from pipeline.text_encoder import QwenTextEncoder, build_prompt_layers
from pipeline.vae.fitting import FittingVaeDecoder
from pipeline.weights import EMBEDDED, resolve_weights


@dataclass(frozen=True)
class RandomLoader(StageLoader):
    """Builds the networks; tokenizer and schedule are the embedded model's."""

    is_tiny: bool = False

    @classmethod
    def of_size(cls, *, is_tiny: bool) -> Self:
        return cls(resolve_weights(EMBEDDED), is_tiny=is_tiny)

    def describe(self) -> ServedModel:
        """Describe the true model, whose memory and cost count by default."""
        side = 256 if self.is_tiny else 1024
        return ServedModel(
            "random",
            "0",
            ImageSize(side, side),
            max_height=4096,
            max_width=4096,
            forward_cost=Z_IMAGE,
        )

    def cached_text_encoder(self, config: TextEncoderConfig, cache: CacheConfig) -> Any:
        compute = _choose(config)
        model = build_language_model(compute.device, compute.dtype, is_tiny=self.is_tiny)
        acceleration = choose_acceleration(config.to_options(), compute.device)
        _hold_to_memory(model, acceleration, compute, config)
        layers = build_prompt_layers(model, acceleration, compute.device)
        return QwenTextEncoder(load_tokenizer(self.weights), layers)

    def denoiser(self, config: PoolConfig) -> tuple[StepLoop, str]:
        compute = _choose(config)
        options, device = config.step_loop.to_options(), compute.device
        model = build_transformer(device, compute.dtype, is_tiny=self.is_tiny)
        acceleration = choose_acceleration(options.acceleration, device)
        _hold_to_memory(model, acceleration, compute, config)
        attention = choose_attention(options.attention, device)
        packed = PackedTransformer(
            model,
            build_attention(attention.packed, device),
            solo_attention=build_attention(attention.solo, device),
            is_strict=options.is_strict,
            acceleration=acceleration,
            device=device,
        )
        step_loop = StepLoop(
            packed,
            limits=options.limits,
            preview=LatentPreview.of_flux_vae(),
            schedule_of=partial(build_schedule, shift=self.weights.shift),
            num_threads=torch.get_num_threads() if device.type == "cpu" else None,
        )
        return step_loop, fingerprint(compute, config)

    def tiled_settings(self, config: PoolConfig) -> TiledSettings:
        return TiledSettings(
            config.tiling.to_options(),
            LatentPreview.of_flux_vae(),
            partial(build_schedule, shift=self.weights.shift),
        )

    def vae_decoder(self, config: VaeDecoderConfig) -> Any:
        compute = _choose(config)
        chosen = choose_acceleration(AccelerationOptions(config.kernels), compute.device)
        vae = build_vae(compute.device, compute.dtype, is_tiny=self.is_tiny)
        _hold_to_memory(vae, chosen, compute, config)
        return FittingVaeDecoder(
            vae, mode=config.mode, kernels=chosen.kernels, budget_gib=memory_of(config)
        )


def _choose(config: ReplicaConfig) -> ComputeDevice:
    return choose_device(config.device, num_threads=config.num_threads)


def _hold_to_memory(
    model: Any, acceleration: Acceleration, compute: ComputeDevice, config: ReplicaConfig
) -> None:
    """Put what is made smaller where loading would put it, and then cap the process.

    Building on the card is faster than on the host, and takes more of it than what is served.
    """
    model.to(acceleration.choose_load_device(compute.device))
    memory_gib = memory_of(config)
    if compute.device.type == "cuda" and memory_gib is not None:
        torch.cuda.empty_cache()
        cap_memory(compute.device, memory_gib)
