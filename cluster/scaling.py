"""How many replicas a pool should have: up at once on a burst, down slowly, to zero if allowed.

Pure: the caller brings the demand, the time and the state of the last decision. The measure is
work, in cost units, never the number of requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from cluster.errors import CapacityError

_ROUNDING = 1e-9


@dataclass(frozen=True)
class ScalingPolicy:
    """The operator's bounds and targets for one pool.

    Raises:
        CapacityError: If they contradict each other.
    """

    min_replicas: int
    max_replicas: int
    target_utilization: float = 0.8
    """Share of its time that a replica should be busy with what arrives."""
    target_backlog_s: float = 2.0
    """What a replica may hold before more replicas are wanted."""
    drain_s: float = 10.0
    """How soon the excess should be worked off."""
    down_delay_s: float = 300.0
    """How long less must have been wanted before anything is taken away."""
    to_zero_delay_s: float = 900.0
    """How long nothing must have been wanted before the last replica goes."""
    max_down_share: float = 0.25
    """The most that is taken away at once (one replica at least)."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas:
            raise CapacityError(
                f"min_replicas must be in [0, max_replicas], "
                f"got {self.min_replicas} of {self.max_replicas}"
            )
        if not 0 < self.target_utilization <= 1:
            raise CapacityError(
                f"target_utilization must be in (0, 1], got {self.target_utilization}"
            )


@dataclass(frozen=True)
class PoolDemand:
    """What is asked of a pool, in cost units (for a follower, in busy seconds)."""

    replica_units_per_s: float
    """How fast one replica works."""
    backlog_units: float = 0.0
    """Held by its replicas."""
    waiting_units: float = 0.0
    """Accepted, and waiting for a replica to start."""
    arriving_units_per_s: float = 0.0
    refused_units_per_s: float = 0.0
    """Turned away lately: it would have come."""


@dataclass(frozen=True)
class ScalingState:
    """What one decision leaves for the next."""

    num_replicas: int
    """The target."""
    low_since_s: float | None = None
    """Since when less than the target has been wanted."""
    highest_low: int = 0
    """The most that was wanted since."""


def needed_units_per_s(policy: ScalingPolicy, demand: PoolDemand, num_replicas: int) -> float:
    """Return the work a second that a pool should be able to do.

    It is what arrives and what was turned away, over the utilization; and what exceeds the backlog
    that `num_replicas` may hold, over the time to drain it.
    """
    held_units = num_replicas * demand.replica_units_per_s * policy.target_backlog_s
    excess_units = max(0.0, demand.backlog_units - held_units) + demand.waiting_units
    arriving = demand.arriving_units_per_s + demand.refused_units_per_s
    return arriving / policy.target_utilization + excess_units / policy.drain_s


def desired_replicas(
    policy: ScalingPolicy, demand: PoolDemand, state: ScalingState, now_s: float
) -> ScalingState:
    """Decide the next target of a pool.

    Args:
        policy: The operator's.
        demand: What is asked of the pool.
        state: The last decision; at first `ScalingState(current)`.
        now_s: Of a clock that never goes back.
    """
    wanted = _count_wanted(policy, demand, state.num_replicas)
    if wanted >= state.num_replicas:
        return ScalingState(wanted)
    if state.low_since_s is None:
        return replace(state, low_since_s=now_s, highest_low=wanted)
    highest = max(state.highest_low, wanted)
    step = max(1, int(state.num_replicas * policy.max_down_share))
    target = max(highest, state.num_replicas - step)
    delay_s = policy.down_delay_s if target else policy.to_zero_delay_s
    if now_s - state.low_since_s < delay_s:
        return replace(state, highest_low=highest)
    return ScalingState(target)


def _count_wanted(policy: ScalingPolicy, demand: PoolDemand, num_replicas: int) -> int:
    needed = needed_units_per_s(policy, demand, num_replicas) / demand.replica_units_per_s
    # Work that is held keeps the replica that holds it, however little it is.
    is_used = needed > 0 or demand.backlog_units > 0
    wanted = max(int(is_used), ceil(needed - _ROUNDING))
    return max(policy.min_replicas, min(policy.max_replicas, wanted))


@dataclass(frozen=True)
class LeadPool:
    """A denoiser pool, as those see it that work before and after it."""

    policy: ScalingPolicy
    demand: PoolDemand
    num_replicas: int
    units_per_picture: float
    """The mean of late."""


def follow(leads: Sequence[LeadPool], busy_s_per_picture: float) -> PoolDemand:
    """Return what denoisers will ask of a text encoder or a VAE decoder.

    It is the rate that the denoisers are being scaled to, not the one that they have reached: what
    follows is up before their pictures come.

    Args:
        leads: All denoiser pools that the stage serves.
        busy_s_per_picture: How long one picture keeps a replica of the stage busy.
    """
    pictures_per_s = sum(_pictures_per_s(lead) for lead in leads)
    return PoolDemand(
        replica_units_per_s=1.0, arriving_units_per_s=pictures_per_s * busy_s_per_picture
    )


def _pictures_per_s(lead: LeadPool) -> float:
    needed = needed_units_per_s(lead.policy, lead.demand, lead.num_replicas)
    most = lead.policy.max_replicas * lead.demand.replica_units_per_s
    arriving = min(needed * lead.policy.target_utilization, most)
    return arriving / lead.units_per_picture
