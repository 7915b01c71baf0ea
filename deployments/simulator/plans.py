"""What is simulated: pools of denoisers, the stages around them, prices and start-up times."""

from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Final

from cluster.accelerators import Precision, get_accelerator
from cluster.cost import UNIT_TOKENS, Z_IMAGE
from cluster.memory import max_denoiser_pixels
from cluster.profiles import CONSUMER_16GB, GpuProfile
from cluster.scaling import ScalingPolicy
from deployments.routing.paths import RoutingPolicy
from deployments.routing.pools import PoolTraits
from deployments.simulator.errors import PlanError
from pipeline.denoising.packing import SharingLimits
from pipeline.denoising.transformer import SHARING_LIMITS
from pipeline.request import LATENT_SCALE, RenderPath
from pipeline.tiled_passes import TilingOptions

EXAMPLE_PRICES: Final = {
    "H200": 3.50,
    "H100": 2.50,
    "H800": 2.20,
    "GeForce-RTX-5070-Ti": 0.25,
    "GeForce-RTX-4090": 0.40,
    "GeForce-RTX-4080": 0.28,
    "GeForce-RTX-4060-Ti": 0.12,
    "GeForce-RTX-3090": 0.22,
}
"""US dollars an hour, to have something to multiply by: give your own."""

FORWARD_OVERHEAD_S: Final = {Precision.BF16: 0.0034, Precision.FP8: 0.0054, Precision.FP32: 0.0}
"""Of each forward, whatever its size: fitted to one H200 at 512 and 1024 px."""

GPU_SHARING: Final = SHARING_LIMITS["cuda"]
CPU_SHARING: Final = SHARING_LIMITS["cpu"]
"""Which pictures of a step share a forward."""

_REFERENCE_UNITS: Final = 4.31
"""Units of a 1024x1024 forward, at which accelerators' rates were taken."""


@dataclass(frozen=True)
class PoolPlan:
    """One pool of denoisers."""

    traits: PoolTraits
    units_per_s: float
    """Of one replica at 1024x1024."""
    price_per_hour: float
    scaling: ScalingPolicy
    forward_overhead_s: float = 0.0
    step_units: float = 8.0
    """Cost units of one step of the step loop."""
    sharing: SharingLimits = GPU_SHARING
    shared_overhead_s: float | None = None
    """What of a forward is paid once by all that share it; None is `forward_overhead_s`."""

    def forward_s(self, units: float) -> float:
        """Return how long one forward takes."""
        unit_s = 1 / self.units_per_s - self.forward_overhead_s / _REFERENCE_UNITS
        return units * unit_s + self.forward_overhead_s

    def overhead_s(self, units: float) -> float:
        """Return what a forward pays once for all that share it: 0 if it is never shared."""
        if count_rows(units) >= self.sharing.solo_rows:
            return 0.0
        overhead_s = self.shared_overhead_s
        overhead_s = self.forward_overhead_s if overhead_s is None else overhead_s
        return min(overhead_s, self.forward_s(units))


def count_rows(units: float) -> int:
    """Return the tokens, a usual prompt's among them, of a forward that costs so many units."""
    tflop = units * Z_IMAGE.tflop(UNIT_TOKENS)
    linear, quadratic = Z_IMAGE.linear_tflop, Z_IMAGE.quadratic_tflop
    return round((sqrt(linear**2 + 4 * quadratic * tflop) - linear) / (2 * quadratic))


@dataclass(frozen=True)
class StagePlan:
    """A stage before or after the denoisers, scaled by what they will ask of it.

    Raises:
        PlanError: If it may be empty: every picture needs it.
    """

    name: str
    picture_s: float
    """Busy time a picture, whatever its size."""
    megapixel_s: float
    """Busy time a megapixel."""
    price_per_hour: float
    """Of one replica: a share of a card where it shares one."""
    scaling: ScalingPolicy
    start_up_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.scaling.min_replicas:
            raise PlanError(f"min_replicas of the {self.name} must be at least 1, got 0")

    def busy_s(self, num_pixels: int) -> float:
        """Return how long one picture keeps a replica busy."""
        return self.picture_s + self.megapixel_s * num_pixels / 1024**2


@dataclass(frozen=True)
class ServicePlan:
    """A whole service."""

    pools: tuple[PoolPlan, ...]
    text_encoder: StagePlan
    vae_decoder: StagePlan
    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    store_s: float = 0.03
    """Uploading and answering: no GPU is busy with it."""


def plan_pool(
    accelerator: str,
    precision: Precision,
    scaling: ScalingPolicy,
    *,
    profile: GpuProfile,
    price_per_hour: float | None = None,
    start_up_s: float = 180.0,
    tiling: TilingOptions | None = None,
) -> PoolPlan:
    """Plan a pool of one accelerator type: tiled on 16 GB cards, full images on others.

    Raises:
        CapacityError: If the accelerator is not known or does not compute in that precision.
        PlanError: If it has no price.
    """
    known = get_accelerator(accelerator)
    tiling = tiling or TilingOptions()
    is_small = profile is CONSUMER_16GB
    most = max_denoiser_pixels(profile.memory_gib, precision)
    traits = PoolTraits(
        name=f"{accelerator.lower()}-{precision}",
        path=RenderPath.TILED if is_small else RenderPath.FULL_IMAGE,
        memory_gib=profile.memory_gib,
        max_pixels=4096 * 4096 if is_small else min(most, 2048 * 2048),
        start_up_s=start_up_s,
        max_replicas=scaling.max_replicas,
        tile_size=LATENT_SCALE * tiling.tile_size,
        overlap=LATENT_SCALE * tiling.overlap,
        start_sigma=tiling.start_sigma,
        base_max_pixels=tiling.base_max_pixels,
    )
    if price_per_hour is None and accelerator not in EXAMPLE_PRICES:
        raise PlanError(f"a price must be given for {accelerator}: there is no example")
    price = EXAMPLE_PRICES[accelerator] if price_per_hour is None else price_per_hour
    return PoolPlan(
        traits=traits,
        units_per_s=known.units_per_s(precision),
        price_per_hour=price,
        scaling=scaling,
        forward_overhead_s=FORWARD_OVERHEAD_S[precision],
    )


def resize_pool(plan: PoolPlan, scaling: ScalingPolicy) -> PoolPlan:
    """Return the same pool with other bounds."""
    traits = replace(plan.traits, max_replicas=scaling.max_replicas)
    return replace(plan, traits=traits, scaling=scaling)
