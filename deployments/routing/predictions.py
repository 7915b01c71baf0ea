"""What a pool would do with a request: its cost, the wait, and when it would be done.

Work ahead that a higher priority overtakes is not waited for. How much of its own priority's work a
picture waits for depends on who is due when, which a replica alone knows: where whole pictures are
drawn it is the replica that says whether what goes before leaves time.
"""

from collections.abc import Callable
from functools import lru_cache
from math import ceil

from cluster.cost import full_image_units
from deployments.routing.decisions import Option, PassWork, RequestFacts, Work
from deployments.routing.pools import PoolStatus, PoolTraits
from pipeline.request import LATENT_SCALE, ImageSize, Priority, RenderPath
from pipeline.schedule import build_schedule
from pipeline.tiled_passes import TilingOptions, plan_passes
from pipeline.tiling import TilePlan


def estimate_work(facts: RequestFacts, traits: PoolTraits) -> Work:
    """Return what the picture costs in a pool."""
    return _work_of(
        traits,
        facts.height,
        facts.width,
        facts.num_inference_steps,
        facts.num_images,
        facts.forwards_per_step,
    )


@lru_cache(maxsize=65536)
def _work_of(
    traits: PoolTraits, height: int, width: int, steps: int, num_images: int, per_step: int
) -> Work:
    if traits.path is RenderPath.FULL_IMAGE:
        units = full_image_units(height, width, 1)
        return Work((PassWork(steps * per_step, num_images, units),))
    options = TilingOptions(
        tile_size=traits.tile_size // LATENT_SCALE,
        overlap=traits.overlap // LATENT_SCALE,
        start_sigma=traits.start_sigma,
        base_max_pixels=traits.base_max_pixels,
        base_steps=traits.base_steps,
    )
    passes = plan_passes(ImageSize(height, width), build_schedule(steps), options)
    return Work(
        tuple(
            PassWork(
                per_step * len(one.steps),
                num_images * len(one.plan.tiles),
                _tile_units(one.plan),
            )
            for one in passes
        )
    )


def step_units(plan: TilePlan) -> float:
    """Return what one step over all tiles of a plan costs."""
    return len(plan.tiles) * _tile_units(plan)


def _tile_units(plan: TilePlan) -> float:
    height, width = plan.tile_height * LATENT_SCALE, plan.tile_width * LATENT_SCALE
    return full_image_units(height, width, 1)


def predict(facts: RequestFacts, pool: PoolStatus) -> Option:
    """Predict the completion of a request in a pool that can draw it."""
    work = estimate_work(facts, pool.traits)
    is_cold = pool.num_replicas == 0
    is_interactive = facts.priority is Priority.INTERACTIVE
    warm_wait_s = pool.interactive_wait_s if is_interactive else pool.wait_s
    num_replicas = max(1, pool.num_replicas)
    own_s = _run_s(work, pool.rate.estimate_s, num_replicas) + facts.other_stages_s
    may_wait = pool.traits.max_held_units * pool.traits.max_replicas
    most = may_wait if is_cold else pool.max_backlog_units
    held_units = pool.interactive_backlog_units if is_interactive else pool.backlog_units
    excess = held_units + work.units - most
    wait_s = _cold_wait_s(pool) if is_cold else warm_wait_s
    is_certain = is_cold or pool.traits.path is RenderPath.TILED
    return Option(
        traits=pool.traits,
        work=work,
        wait_s=wait_s,
        least_wait_s=wait_s if is_certain else 0.0,
        own_s=own_s,
        least_own_s=_run_s(work, pool.rate.least_s, num_replicas),
        busy_share=1.0 if is_cold else 1 - pool.num_idle_replicas / pool.num_replicas,
        is_cold=is_cold,
        is_full=held_units > 0 and excess > 0,
        room_after_s=excess / pool.units_per_s if pool.units_per_s else pool.traits.start_up_s,
    )


def _run_s(work: Work, forward_s: Callable[[float, int], float], num_replicas: int) -> float:
    """Return how long so many replicas take that do nothing else.

    Tiles go to all replicas of a pool, idle or not, and so do a call's pictures; what those hold
    is waited for anyway.
    """
    return sum(
        one.num_steps * ceil(one.num_tiles / num_replicas) * forward_s(one.tile_units, 1)
        for one in work.passes
    )


def _cold_wait_s(pool: PoolStatus) -> float:
    start_s = pool.start_left_s if pool.num_starting else pool.traits.start_up_s
    units_per_s = pool.rate.overall.units_per_s * max(1, pool.num_starting)
    return start_s + pool.backlog_units / units_per_s
