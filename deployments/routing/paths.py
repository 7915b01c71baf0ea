"""Which pool, and by that which path, draws a picture.

The order of thought: what could draw it at all, what has room, what is in time. Then where it costs
least time, its own and others': the predicted completion, and the delay of whatever will stand
behind it. Small work is meant for the smallest cards, which keeps the big ones free, and large work
for the biggest: they take it while that costs little more than elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

from deployments.routing.decisions import (
    Choice,
    Decision,
    Option,
    Reason,
    Refusal,
    RefusalKind,
    RequestFacts,
)
from deployments.routing.pools import PoolStatus, PoolTraits
from deployments.routing.predictions import predict
from pipeline.request import ImageSize, Priority
from pipeline.tiling import shrink_to_area


@dataclass(frozen=True)
class RoutingPolicy:
    """What the operator may tune."""

    small_pixels: int = 768 * 768
    """Pictures up to this size are meant for the small cards, larger ones for the big cards."""
    interactive_patience: float = 2.0
    """How much more than elsewhere a picture may cost on the cards that are meant for it, in times
    that it takes there alone."""
    batch_patience: float = 10.0
    crowding_units: float = 12.0
    """Work that delays one other request: half of what a request costs on average, as in a pool
    that is busy 80 % of its time."""
    max_slowdown: float = 20.0
    """Small interactive work passes over cards that take so many times longer than the best."""
    stickiness: float = 0.8
    """What was chosen last must be undercut by this factor."""


def choose_path(
    facts: RequestFacts,
    pools: Sequence[PoolStatus],
    policy: RoutingPolicy,
    *,
    previous: str | None = None,
) -> Decision:
    """Choose the pool that draws a picture, or say why none does.

    Args:
        facts: The request.
        pools: All pools of the configuration, cold and unhealthy ones included.
        policy: The operator's.
        previous: The pool that the last request of the same `traffic_class` went to.
    """
    capable = [pool for pool in pools if _can_draw(facts, pool.traits)]
    if not capable:
        return _refuse_size(facts, pools)
    options = [predict(facts, pool) for pool in capable if _is_present(pool)]
    if not options:
        soonest_s = min(pool.traits.start_up_s for pool in capable)
        return _refuse(RefusalKind.UNAVAILABLE, soonest_s, "no pool that can draw it is up")
    roomy = options if facts.is_job else [option for option in options if not option.is_full]
    if not roomy:
        nearest = min(options, key=lambda option: option.room_after_s)
        message = "every pool that can draw it is full"
        return _refuse(RefusalKind.BUSY, nearest.room_after_s, message, nearest)
    # Estimates tell pools apart; only what is certain turns a caller away.
    timely = [option for option in roomy if _is_timely(facts, option.completion_s)] or [
        option for option in roomy if _is_timely(facts, option.least_completion_s)
    ]
    if not timely:
        nearest = min(roomy, key=lambda option: option.least_completion_s)
        left_s = facts.timeout_s or 0.0
        message = (
            f"the picture would take {nearest.completion_s:.2f} s, {nearest.wait_s:.2f} s of them "
            f"waiting; {left_s:.2f} s are left"
        )
        too_late_s = nearest.least_completion_s - left_s
        refusal = _refuse(RefusalKind.DEADLINE, too_late_s, message, nearest)
        if all(option.least_own_s > left_s for option in options):
            return replace(refusal, own_s=min(option.own_s for option in options))
        return refusal
    choice = _choose(facts, timely, policy, previous)
    if not any(option.is_cold for option in options):
        return choice
    return replace(choice, wished=_find_wished(facts, options, policy, choice.option))


def traffic_class(facts: RequestFacts, policy: RoutingPolicy) -> tuple[bool, Priority]:
    """Return what shares a `previous`: small or not, and the priority."""
    return facts.height * facts.width <= policy.small_pixels, facts.priority


def _can_draw(facts: RequestFacts, traits: PoolTraits) -> bool:
    is_path = facts.pinned_path is None or facts.pinned_path is traits.path
    return is_path and facts.height * facts.width <= traits.max_pixels


def _is_present(pool: PoolStatus) -> bool:
    return pool.is_healthy and (pool.num_replicas > 0 or pool.traits.max_replicas > 0)


def _is_timely(facts: RequestFacts, completion_s: float) -> bool:
    return facts.is_job or facts.timeout_s is None or completion_s <= facts.timeout_s


def _refuse_size(facts: RequestFacts, pools: Sequence[PoolStatus]) -> Refusal:
    path = facts.pinned_path
    of_path = [pool.traits for pool in pools if path is None or pool.traits.path is path]
    most = max((traits.max_pixels for traits in of_path), default=0)
    largest = shrink_to_area(ImageSize(facts.height, facts.width), max_pixels=most)
    message = (
        f"height x width must be at most {most} on path {path or 'auto'}, "
        f"the largest of this shape is {largest or 'none'}, got {facts.height} x {facts.width}"
        if most
        else f"path must be one that a pool has, got {path or 'auto'}"
    )
    return Refusal(RefusalKind.TOO_LARGE, None, message)


def _refuse(
    kind: RefusalKind, seconds: float, message: str, nearest: Option | None = None
) -> Refusal:
    return Refusal(kind, max(1, ceil(seconds)), message, nearest)


def _choose(
    facts: RequestFacts, options: list[Option], policy: RoutingPolicy, previous: str | None
) -> Choice:
    if len(options) == 1:
        reason = Reason.PINNED if facts.pinned_path else Reason.ONLY
        return _settle(options[0], reason, 1)
    cheapest = min(
        _without_waits_for_cold(options),
        key=lambda option: _felt_cost_s(option, policy, previous),
    )
    in_order = _put_in_order(facts, options, policy)
    preferred = _find_preferred(facts, in_order, cheapest, policy, previous)
    if preferred is not None:
        return _settle(preferred, Reason.PREFERRED, len(options))
    return _settle(cheapest, Reason.LEAST_COST, len(options))


def _without_waits_for_cold(options: list[Option]) -> list[Option]:
    """Leave out cold pools that would be done later than one that is up: no one gains by those."""
    soonest_s = min((option.completion_s for option in options if not option.is_cold), default=inf)
    return [option for option in options if not option.is_cold or option.completion_s < soonest_s]


def cost_s(option: Option, policy: RoutingPolicy) -> float:
    """Return the seconds that a request takes in a pool, of its own and of others.

    The others' are those of a queue with Poisson arrivals: in proportion to the work, and to twice
    the wait before it and its own time, in which they come. An idle pool delays nobody.
    """
    others = option.work.units / policy.crowding_units
    crowded_s = 2 * option.wait_s + option.busy_share * option.own_s
    return option.completion_s + others * crowded_s


def _settle(option: Option, reason: Reason, num_options: int) -> Choice:
    return Choice(option, Reason.COLD if option.is_cold else reason, num_options)


def _put_in_order(
    facts: RequestFacts, options: list[Option], policy: RoutingPolicy
) -> list[Option]:
    """Return what may be preferred: for small work all, for large work the biggest cards."""
    is_small, _ = traffic_class(facts, policy)
    if not is_small:
        return [min(options, key=_biggest_first)]
    latest_s = inf
    if facts.priority is Priority.INTERACTIVE:
        latest_s = policy.max_slowdown * min(option.completion_s for option in options)
    in_order = sorted(options, key=_smallest_first)
    return [option for option in in_order if option.own_s <= latest_s]


def _find_preferred(
    facts: RequestFacts,
    in_order: list[Option],
    cheapest: Option,
    policy: RoutingPolicy,
    previous: str | None,
) -> Option | None:
    is_interactive = facts.priority is Priority.INTERACTIVE
    patience = policy.interactive_patience if is_interactive else policy.batch_patience
    least_s = cost_s(cheapest, policy)
    for option in in_order:
        # To come back takes a lower cost than to have stayed.
        is_return = previous is not None and previous != option.traits.name
        more_s = patience * option.own_s * (policy.stickiness**2 if is_return else 1.0)
        if not option.is_cold and cost_s(option, policy) <= least_s + more_s:
            return option
    return None


def _find_wished(
    facts: RequestFacts, options: list[Option], policy: RoutingPolicy, chosen: Option
) -> Option | None:
    """Return what would have been preferred had it been up: its start-up is not counted."""
    for option in _put_in_order(facts, options, policy):
        if option is chosen:
            return None
        if option.is_cold and option.own_s <= (facts.timeout_s or inf):
            return option
    return None


def _smallest_first(option: Option) -> tuple[float, float]:
    return option.traits.memory_gib, -option.own_s


def _biggest_first(option: Option) -> tuple[float, float]:
    return -option.traits.memory_gib, option.own_s


def _felt_cost_s(option: Option, policy: RoutingPolicy, previous: str | None) -> float:
    is_same = option.traits.name == previous
    return cost_s(option, policy) * (policy.stickiness if is_same else 1.0)
