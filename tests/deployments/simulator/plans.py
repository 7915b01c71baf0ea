"""Small plans for tests of the simulator."""

from cluster.scaling import ScalingPolicy
from deployments.routing.pools import PoolTraits
from deployments.simulator.plans import PoolPlan, ServicePlan, StagePlan
from pipeline.request import RenderPath

BIG_UNITS_PER_S = 43.7
UNITS_1024 = 34.48


def big_pool(
    least: int,
    most: int,
    *,
    price: float = 2.5,
    name: str = "big",
    held_units: float = 512.0,
) -> PoolPlan:
    traits = PoolTraits(
        name,
        RenderPath.FULL_IMAGE,
        76.0,
        2048 * 2048,
        60.0,
        most,
        max_held_units=held_units,
    )
    return PoolPlan(traits, BIG_UNITS_PER_S, price, ScalingPolicy(least, most))


def small_pool(least: int, most: int) -> PoolPlan:
    traits = PoolTraits("small", RenderPath.TILED, 15.0, 4096 * 4096, 30.0, most, 1024, 256)
    return PoolPlan(traits, 8.0, 0.4, ScalingPolicy(least, most))


def instant_stage(name: str) -> StagePlan:
    return StagePlan(name, 0.0, 0.0, 0.0, ScalingPolicy(1, 1))


def service(*pools: PoolPlan) -> ServicePlan:
    return ServicePlan(
        pools,
        text_encoder=instant_stage("text encoder"),
        vae_decoder=instant_stage("VAE decoder"),
        store_s=0.0,
    )
