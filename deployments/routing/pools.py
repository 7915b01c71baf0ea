"""A pool as the choice sees it: what is fixed about it, and how it stands at one moment."""

from dataclasses import dataclass
from typing import Protocol

from cluster.rates import ReplicaRate
from deployments.backlog import PoolBacklog
from pipeline.request import RenderPath


@dataclass(frozen=True, eq=False)
class PoolTraits:
    """What is fixed about a pool. Compared by identity: there is one for each pool."""

    name: str
    path: RenderPath
    memory_gib: float
    """Of its profile: the order from small cards to big ones."""
    max_pixels: int
    """The largest picture that it draws."""
    start_up_s: float
    """From nothing to a replica that takes work, its node included."""
    max_replicas: int
    tile_size: int = 0
    """Image pixels; of the tiled path only."""
    overlap: int = 0
    start_sigma: float = 1.0
    """Where tiles take over from a base pass of the tiled path; 1 is no base pass."""
    base_max_pixels: int = 768 * 768
    base_steps: int | None = None
    """Of the base pass; None takes those before `start_sigma`."""
    max_held_units: float = 512.0
    """What one replica takes before it refuses; and, times `max_replicas`, what may wait for a pool
    that has none."""


class PoolStatus(Protocol):
    """A pool at one moment."""

    @property
    def traits(self) -> PoolTraits:
        """What does not change."""

    @property
    def num_replicas(self) -> int:
        """Those that take work."""

    @property
    def num_idle_replicas(self) -> float:
        """Those of them that hold none, as many as may be expected."""

    @property
    def num_starting(self) -> int:
        """Those that will take work within `start_left_s`."""

    @property
    def start_left_s(self) -> float:
        """Seconds until the next of them does; the whole start-up time if none is starting."""

    @property
    def is_healthy(self) -> bool:
        """False if every replica it has is unhealthy."""

    @property
    def backlog_units(self) -> float:
        """Work that it holds, or that waits for it to start."""

    @property
    def interactive_backlog_units(self) -> float:
        """The part of it that is interactive; all of it where the pool has no replica."""

    @property
    def wait_s(self) -> float:
        """Until the replica that would take a batch request begins it."""

    @property
    def interactive_wait_s(self) -> float:
        """Until the replica that would take an interactive request begins it."""

    @property
    def max_backlog_units(self) -> float:
        """What its replicas take before they refuse.

        Batch work counts beside all that they hold, interactive work beside the interactive.
        """

    @property
    def units_per_s(self) -> float:
        """Of all its replicas together."""

    @property
    def rate(self) -> ReplicaRate:
        """Of one of its replicas."""


@dataclass(frozen=True)
class PoolState:
    """A `PoolStatus` that a router has put together."""

    traits: PoolTraits
    rate: ReplicaRate
    num_replicas: int
    num_idle_replicas: float
    backlog_units: float
    interactive_backlog_units: float
    wait_s: float
    interactive_wait_s: float
    max_backlog_units: float
    units_per_s: float
    num_starting: int = 0
    start_left_s: float = 0.0
    is_healthy: bool = True


def build_state(
    traits: PoolTraits,
    backlog: PoolBacklog,
    rate: ReplicaRate,
    *,
    waiting_units: float = 0.0,
) -> PoolState:
    """Put together what a router knows of a pool.

    Args:
        traits: From the configuration.
        backlog: From the ledger.
        rate: Of one of its replicas, or the accelerator type's.
        waiting_units: What waits for a first replica.
    """
    share = share_of_mean_wait(backlog.num_replicas, backlog.num_idle_replicas)
    return PoolState(
        traits=traits,
        rate=rate,
        num_replicas=backlog.num_replicas,
        num_idle_replicas=backlog.num_idle_replicas,
        # What waits for a first replica has been sent, and is counted so for a while.
        backlog_units=max(backlog.backlog_units, waiting_units),
        interactive_backlog_units=max(backlog.interactive_backlog_units, waiting_units),
        wait_s=share * backlog.wait_s,
        interactive_wait_s=share * backlog.interactive_wait_s,
        max_backlog_units=backlog.max_backlog_units,
        units_per_s=backlog.units_per_s,
        is_healthy=backlog.is_healthy,
    )


def share_of_mean_wait(num_replicas: int, num_idle_replicas: float) -> float:
    """Return how much of its replicas' mean wait a pool lets a request wait.

    A whole picture goes to the one with fewer requests of two replicas at random, so it waits only
    where both are busy. Tiles take turns, at every step anew, which comes to about as much.
    """
    if num_replicas < 2:
        return 1.0
    return max(0.0, num_replicas - num_idle_replicas - 1) / (num_replicas - 1)
