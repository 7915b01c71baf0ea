"""Paced denoisers of two kinds of card: in two pools, or all in one, as replicas of one kind."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from paced_models import ForwardTime, LoggedStepLoop, PacedLoader, count_units, time_on_h200
from ray import serve
from stage_log import StageLog
from torch import Tensor

from cluster.accelerators import Precision
from cluster.profiles import CONSUMER_16GB, H800
from cluster.scaling import ScalingPolicy
from deployments.config import AppConfig, PoolConfig
from deployments.pools import to_known_pool
from deployments.routing.decisions import RequestFacts
from deployments.routing.predictions import estimate_work
from deployments.served_model import DEFAULT_STEPS, ServedModel
from deployments.simulator.plans import PoolPlan, plan_pool
from pipeline.denoising.engine import StepLoop
from pipeline.request import LATENT_SCALE

NUM_BIG: Final = 2
NUM_SMALL: Final = 4
BIG: Final = plan_pool("H200", Precision.BF16, ScalingPolicy(NUM_BIG, NUM_BIG), profile=H800)
_TILES: Final = PoolConfig.model_validate(
    {"name": "tiles", "profile": CONSUMER_16GB.name, "path": "tiled", "memory_gib": 16.0}
)
SMALL: Final = plan_pool(
    "GeForce-RTX-4080",
    Precision.FP8,
    ScalingPolicy(NUM_SMALL, NUM_SMALL),
    profile=CONSUMER_16GB,
)
ALL: Final = "all"
"""The pool whose replicas are of both kinds, the first ones big."""


@dataclass(frozen=True)
class MixedLoader(PacedLoader):
    """Loads the pace of the pool's card, or of the replica's own."""

    stretch: float = 1.0
    """How many times longer everything takes, so that what the service itself takes counts less."""

    def stretched(self, stretch: float) -> Self:
        return replace(self, times=self.times.stretched(stretch), stretch=stretch)

    def denoiser(self, config: PoolConfig) -> tuple[StepLoop, str]:
        limits = config.step_loop.to_options().limits
        pace, log = self._pace_of(config), StageLog(self.log)
        loop = LoggedStepLoop(limits, log, lambda items: self.stretch * pace(items))
        return loop, f"{config.path.value}/paced"

    def _pace_of(self, config: PoolConfig) -> ForwardTime:
        if config.name == CONSUMER_16GB.name:
            return _time_on_small
        if config.name == ALL and serve.get_replica_context().rank.rank >= NUM_BIG:
            return _WholeOnSmall(self.describe())
        return time_on_h200


def _time_on_small(items: Sequence[Tensor]) -> float:
    return SMALL.forward_s(sum(map(count_units, items)))


class _WholeOnSmall:
    """A small card that draws whole pictures takes as long for them as for their tiles."""

    def __init__(self, model: ServedModel) -> None:
        self._traits = to_known_pool(_TILES, AppConfig(), model).traits

    def __call__(self, items: Sequence[Tensor]) -> float:
        return SMALL.forward_s(sum(map(self._units_of, items)))

    def _units_of(self, latents: Tensor) -> float:
        height, width = (LATENT_SCALE * side for side in latents.shape[1:])
        # A picture of one step would have no base pass.
        work = estimate_work(RequestFacts(height, width, DEFAULT_STEPS), self._traits)
        return work.units / DEFAULT_STEPS


def plan_pools() -> tuple[PoolPlan, ...]:
    """Return the same cards for the simulator, the small ones with the service's tiles."""
    tiling = _TILES.tiling
    traits = replace(
        SMALL.traits,
        tile_size=LATENT_SCALE * tiling.tile_size,
        overlap=LATENT_SCALE * tiling.overlap,
        start_sigma=tiling.start_sigma,
        base_max_pixels=tiling.base_max_pixels,
    )
    return BIG, replace(SMALL, traits=traits)
