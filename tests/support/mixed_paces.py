"""Paced denoisers of two kinds of card: in two pools, or all in one, as replicas of one kind."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Final, Self

from paced_models import Z_IMAGE_LAYERS, LoggedStepLoop, PacedLoader, count_units
from ray import serve
from stage_log import StageLog
from torch import Tensor

from cluster.accelerators import Precision
from cluster.cost import TOKEN_SIDE
from cluster.profiles import CONSUMER_16GB, H800
from cluster.scaling import ScalingPolicy
from deployments.config import PoolConfig
from deployments.routing.decisions import RequestFacts
from deployments.routing.pools import PoolTraits
from deployments.routing.predictions import estimate_work
from deployments.served_model import DEFAULT_STEPS
from deployments.simulator.plans import PoolPlan, plan_pool
from pipeline.denoising.cost import ForwardCost
from pipeline.denoising.engine import StepLoop

ALL: Final = "all"
"""The pool whose replicas are of both kinds, the first ones big."""
NUM_BIG: Final = 2
NUM_SMALL: Final = 4
BIG: Final = plan_pool("H200", Precision.BF16, ScalingPolicy(NUM_BIG, NUM_BIG), profile=H800)
SMALL: Final = plan_pool(
    "GeForce-RTX-4080",
    Precision.FP8,
    ScalingPolicy(NUM_SMALL, NUM_SMALL),
    profile=CONSUMER_16GB,
)


@dataclass(frozen=True)
class MixedLoader(PacedLoader):
    """Loads the pace of the pool's card, or of the replica's own."""

    stretch: float = 1.0
    """How many times longer everything takes, so that what the service itself takes counts less."""

    def stretched(self, stretch: float) -> Self:
        return replace(self, times=self.times.stretched(stretch), stretch=stretch)

    def denoiser(self, config: PoolConfig) -> tuple[StepLoop, str]:
        limits = config.step_loop.to_options().limits
        plan, cost = self._pace_of(config)

        def forward_s(items: Sequence[Tensor]) -> float:
            # From 512x512 up items share a step, not a forward.
            return self.stretch * sum(plan.forward_s(count_units(item, cost)) for item in items)

        loop = LoggedStepLoop(limits, StageLog(self.log), forward_s, cost)
        return loop, f"{config.path.value}/paced"

    def _pace_of(self, config: PoolConfig) -> tuple[PoolPlan, ForwardCost]:
        if config.name == CONSUMER_16GB.name:
            return SMALL, Z_IMAGE_LAYERS
        if config.name == ALL and serve.get_replica_context().rank.rank >= NUM_BIG:
            return SMALL, _WholeOnSmall(**vars(Z_IMAGE_LAYERS), traits=SMALL.traits)
        return BIG, Z_IMAGE_LAYERS


@dataclass(frozen=True)
class _WholeOnSmall(ForwardCost):
    """A small card that draws whole pictures, all square, in the time of their tiles."""

    traits: PoolTraits

    def units(self, num_image_tokens: int, num_caption_tokens: int) -> float:
        side = TOKEN_SIDE * isqrt(num_image_tokens)
        # A picture of one step would have no base pass.
        work = estimate_work(RequestFacts(side, side, DEFAULT_STEPS), self.traits)
        return work.units / DEFAULT_STEPS
