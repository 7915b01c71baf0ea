"""A pool of the configuration, in the words of routing and of its replicas."""

from typing import Final

from cluster.accelerators import Precision, get_accelerator
from cluster.profiles import get_profile
from cluster.rates import ReplicaRate, guess_rate
from deployments.config import AppConfig, PoolConfig
from deployments.denoiser import PoolTerms
from deployments.memory_plan import max_pixels_in_memory
from deployments.pool_choice import KnownPool
from deployments.routing.pools import PoolTraits
from deployments.served_model import ServedModel
from pipeline.request import LATENT_SCALE

_TYPICAL_ACCELERATOR: Final = {
    "h800": "H100",
    "consumer-16gb": "GeForce-RTX-4080",
    "cpu": "CPU",
}
_EIGHT_BITS: Final = ("float8", "int8")


def to_terms(pool: PoolConfig, model: ServedModel, *, step_detail_ratio: float = 0.0) -> PoolTerms:
    """Tell a replica what it is part of."""
    held_units = pool.step_loop.held_units
    return PoolTerms(pool.name, guess_speed(pool, model), held_units, step_detail_ratio)


def to_known_pool(pool: PoolConfig, config: AppConfig, model: ServedModel) -> KnownPool:
    """Tell the router what is fixed about a pool.

    Raises:
        PlacementError: If the pool's memory holds no picture.
    """
    in_memory = max_pixels_in_memory(pool, config.vae_decoder, model)
    traits = PoolTraits(
        name=pool.name,
        path=pool.path,
        memory_gib=get_profile(pool.profile).memory_gib,
        max_pixels=min([pool.max_pixels or config.limits.max_pixels, *in_memory]),
        start_up_s=pool.start_up_s,
        max_replicas=pool.max_replicas,
        tile_size=pool.tiling.tile_size * LATENT_SCALE,
        overlap=pool.tiling.overlap * LATENT_SCALE,
        start_sigma=pool.tiling.start_sigma,
        base_max_pixels=pool.tiling.base_max_pixels,
        base_steps=pool.tiling.base_steps,
        max_held_units=pool.step_loop.held_units,
    )
    return KnownPool(traits, guess_speed(pool, model))


def guess_speed(pool: PoolConfig, model: ServedModel) -> ReplicaRate:
    """Guess cost units a second from accelerator type and precision, before any report.

    Raises:
        CapacityError: If the accelerator type is not known.
    """
    accelerator = get_accelerator(pool.accelerator or _TYPICAL_ACCELERATOR[pool.profile])
    return guess_rate(accelerator.units_per_s(_to_precision(pool), model.forward_cost))


def _to_precision(pool: PoolConfig) -> Precision:
    """Say what multiplies; on the card where both were measured int8 is as fast as float8."""
    if pool.profile == "cpu":
        return Precision.FP32
    return Precision.FP8 if pool.step_loop.precision in _EIGHT_BITS else Precision.BF16
