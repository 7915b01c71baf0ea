"""How much memory a replica may use, and which pictures that holds. Pure: asks no device."""

from typing import Final

from cluster.errors import PlacementError
from cluster.profiles import get_profile
from deployments.config import PoolConfig, ReplicaConfig, VaeDecoderConfig
from deployments.served_model import ServedModel
from pipeline.acceleration.options import BlockKernels
from pipeline.memory import max_decode_tokens
from pipeline.request import PATCH_SIZE, SIZE_MULTIPLE, RenderPath

PIXELS_PER_TOKEN: Final = SIZE_MULTIPLE**2


def memory_of(config: ReplicaConfig) -> float | None:
    """Return the GiB that one replica may allocate; None is no bound."""
    if config.memory_gib is not None:
        return config.memory_gib
    profile = get_profile(config.profile)
    return profile.share_gib(config.num_gpus) if profile.has_gpu else None


def max_pixels_in_memory(
    pool: PoolConfig, vae_decoder: VaeDecoderConfig, model: ServedModel
) -> list[int]:
    """Return the largest pictures, in image pixels, that each bounded memory lets through.

    The pool's denoisers bound them on the full-image path, the VAE decoders on both.

    Raises:
        PlacementError: If the denoisers' memory does not hold a tile and the base pass.
    """
    most = []
    budget_gib, decoder_gib = memory_of(pool), memory_of(vae_decoder)
    if budget_gib is not None:
        most += _max_denoiser_pixels(pool, model, budget_gib)
    if decoder_gib is not None:
        # Where `auto` chooses fused kernels, more fits than this lets through.
        is_fused = vae_decoder.kernels == "fused"
        kernels = BlockKernels.FUSED if is_fused else BlockKernels.MODULES
        tokens = max_decode_tokens(vae_decoder.mode, budget_gib=decoder_gib, kernels=kernels)
        most.append(tokens * PIXELS_PER_TOKEN)
    return most


def _max_denoiser_pixels(pool: PoolConfig, model: ServedModel, budget_gib: float) -> list[int]:
    has_8_bits = pool.step_loop.precision != "auto"
    memory = model.eight_bit_memory if has_8_bits else model.denoiser_memory
    most = memory.max_tokens(budget_gib)
    needed = _largest_forward(pool)
    if most < needed:
        peak_gib = memory.peak_gib(needed)
        raise PlacementError(
            f"memory_gib of pool {pool.name} must be at least {peak_gib:.2f}, got {budget_gib:.2f}"
        )
    return [] if pool.path is RenderPath.TILED else [most * PIXELS_PER_TOKEN]


def _largest_forward(pool: PoolConfig) -> int:
    """Return the image tokens of the largest forward of tiles; of one patch on the other path."""
    if pool.path is RenderPath.FULL_IMAGE:
        return 1
    tile = (pool.tiling.tile_size // PATCH_SIZE) ** 2
    return max(tile, pool.tiling.base_max_pixels // PIXELS_PER_TOKEN)
