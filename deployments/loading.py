"""What each stage loads, as functions that a replica can call: bound, they pickle small."""

import os
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import torch

from deployments.cache_config import CacheConfig
from deployments.compute_threads import go_behind
from deployments.config import (
    AppConfig,
    PoolConfig,
    ReplicaConfig,
    TextEncoderConfig,
    TilingConfig,
    VaeDecoderConfig,
)
from deployments.embedding_cache import CachedTextEncoder, embedding_scope
from deployments.kernel_cache import KernelCache, build_kernel_cache
from deployments.memory_plan import memory_of
from deployments.served_model import DEFAULT_STEPS
from deployments.shared_cache import open_shared_cache
from deployments.tile_coordinator import TiledSettings
from pipeline.acceleration.attention import choose_attention
from pipeline.acceleration.options import (
    KERNELS_REVISION,
    AccelerationOptions,
    BlockKernels,
    Precision,
    choose_acceleration,
)
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.loading import load_preview, load_step_loop
from pipeline.denoising.warming import plan_warm_up, warm_up
from pipeline.device import ComputeDevice, choose_device
from pipeline.device_memory import cap_memory
from pipeline.latents import LATENT_CHANNELS
from pipeline.networks import load_vae
from pipeline.request import RenderPath
from pipeline.schedule import build_schedule
from pipeline.stages import TextEncoder, VaeDecoder
from pipeline.text_encoder import MAX_PROMPT_TOKENS, QwenTextEncoder, load_text_encoder
from pipeline.vae.fitting import FittingVaeDecoder
from pipeline.weights import Weights

NUM_WARM_RUNS: Final = 2
"""On a GPU a shape is run the first time, and recorded the second."""


@dataclass(frozen=True)
class StageLoader:
    """Reads the parts of one model, each on the device that its deployment is given."""

    weights: Weights
    kernel_cache: KernelCache | None = field(default=None, kw_only=True)
    goes_behind: bool = field(default=False, kw_only=True)
    """Whether a stage on the CPU lets others go first: the loading thread, and what it starts."""

    def text_encoder(self, config: TextEncoderConfig) -> TextEncoder:
        """Read tokenizer and language model."""
        return self._load_text_encoder(self._open_device(config), config.to_options())

    def cached_text_encoder(self, config: TextEncoderConfig, cache: CacheConfig) -> TextEncoder:
        """Read tokenizer and language model, and keep what they encode."""
        compute, options = self._open_device(config), config.to_options()
        text_encoder = self._load_text_encoder(compute, options)
        if not cache.embedding_bytes:
            return text_encoder
        scope = embedding_scope(
            revision=self.weights.revision,
            accelerator=compute.accelerator,
            precision=_name_computation(compute, options),
            template=text_encoder.template,
            max_tokens=MAX_PROMPT_TOKENS,
        )
        shared = open_shared_cache(cache)
        return CachedTextEncoder(
            text_encoder, scope, max_bytes=cache.embedding_bytes, shared=shared
        )

    def denoiser(self, config: PoolConfig) -> tuple[StepLoop, str]:
        """Read the transformer, and say what its bytes depend on."""
        compute = self._open_device(config)
        step_loop = load_step_loop(self.weights, compute, config.step_loop.to_options())
        self._warm_up(step_loop, config)
        return step_loop, fingerprint(compute, config)

    def _open_device(self, config: ReplicaConfig) -> ComputeDevice:
        """Choose a replica's device, hold it to its memory there, and open its kernels."""
        # Ray sets OMP_NUM_THREADS to the reserved CPUs, which are a fraction here.
        compute = choose_device(config.device, num_threads=config.num_threads or os.cpu_count())
        if compute.device.type == "cpu" and self.goes_behind:
            go_behind()
        memory_gib = memory_of(config)
        if compute.device.type == "cuda" and memory_gib is not None:
            cap_memory(compute.device, memory_gib)
        if compute.device.type == "cuda" and self.kernel_cache is not None:
            self.kernel_cache.open(compute.accelerator)
        return compute

    def _load_text_encoder(
        self, compute: ComputeDevice, options: AccelerationOptions
    ) -> QwenTextEncoder:
        text_encoder = load_text_encoder(self.weights, compute, options)
        if compute.device.type == "cuda":
            for _ in range(NUM_WARM_RUNS):
                text_encoder.encode("warm up")
        return text_encoder

    def _warm_up(self, step_loop: StepLoop, config: PoolConfig) -> None:
        schedule = build_schedule(DEFAULT_STEPS, shift=self.weights.shift)
        tiling = config.tiling.to_options()
        sizes = plan_warm_up(config.to_warm_sizes(), config.path, tiling, schedule)
        caption_dim = self.weights.component_config("transformer", "config.json")["cap_feat_dim"]
        warm_up(step_loop, sizes, caption_dim=caption_dim)

    def tiled_settings(self, config: PoolConfig) -> TiledSettings:
        """Read what a coordinator needs: no weights but those that a preview is fitted to."""
        return TiledSettings(
            config.tiling.to_options(),
            load_preview(self.weights),
            partial(build_schedule, shift=self.weights.shift),
        )

    def vae_decoder(self, config: VaeDecoderConfig) -> VaeDecoder:
        """Read the decoder.

        Raises:
            AccelerationUnavailableError: If this machine cannot run the kernels.
        """
        compute = self._open_device(config)
        chosen = choose_acceleration(AccelerationOptions(config.kernels), compute.device)
        vae = load_vae(self.weights, device=compute.device, dtype=compute.dtype)
        decoder = FittingVaeDecoder(
            vae, mode=config.mode, kernels=chosen.kernels, budget_gib=memory_of(config)
        )
        for size in config.to_warm_sizes():
            latents = torch.zeros(1, LATENT_CHANNELS, size.latent_height, size.latent_width)
            for _ in range(NUM_WARM_RUNS):
                decoder.decode(latents)
        return decoder


def build_loader(config: AppConfig, weights: Weights, *, goes_behind: bool = False) -> StageLoader:
    """Build what reads the stages of one model, for one configuration."""
    kernel_cache = build_kernel_cache(config, revision=weights.revision)
    return StageLoader(weights, kernel_cache=kernel_cache, goes_behind=goes_behind)


def fingerprint(compute: ComputeDevice, config: PoolConfig) -> str:
    """Name everything beside the request that decides the bytes of a picture."""
    build = f"torch-{torch.__version__}"
    options = config.step_loop.to_options()
    attention = choose_attention(options.attention, compute.device).identify()
    computation = _name_computation(compute, options.acceleration)
    parts = [config.path.value, compute.accelerator, computation, attention, build]
    if compute.device.type == "cpu":
        parts.append(f"threads-{torch.get_num_threads()}")
    else:
        parts.append(f"kernels-{KERNELS_REVISION}")
    if config.path is RenderPath.TILED:
        parts.append(_name_tiling(config.tiling))
    return "/".join(parts)


def _name_computation(compute: ComputeDevice, options: AccelerationOptions) -> str:
    """Name precision and kernels; the model's own modules in its own precision need no word."""
    chosen = choose_acceleration(options, compute.device)
    names = [compute.precision]
    if chosen.kernels is not BlockKernels.MODULES:
        names.append(chosen.kernels)
    if chosen.precision is not Precision.BFLOAT16:
        names.append("+".join((chosen.precision, *sorted(chosen.bfloat16_layers))))
    return "-".join(names)


def _name_tiling(tiling: TilingConfig) -> str:
    steps = "" if tiling.base_steps is None else f"-{tiling.base_steps}"
    return (
        f"tiles-{tiling.tile_size}-{tiling.overlap}-{tiling.positions}"
        f"-base-{tiling.start_sigma:g}-{tiling.base_max_pixels}{steps}"
    )
