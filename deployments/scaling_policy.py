"""Autoscaling by work instead of by requests: what Serve's controller calls, over the ledger.

The controller calls a policy every 0.1 s and must not wait for it, so a thread reads the ledger.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil
from typing import Any, Final, Protocol

import ray
from ray.exceptions import RayError

from cluster.scaling import (
    LeadPool,
    PoolDemand,
    ScalingPolicy,
    ScalingState,
    desired_replicas,
    follow,
)
from deployments.demand import AskedOfPool
from deployments.ledger import LedgerView
from deployments.ledger_actor import ACTOR_NAME, NAMESPACE

logger = logging.getLogger("ray.serve.zimage")

_READ_PERIOD_S: Final = 0.5
_ANSWER_WITHIN_S: Final = 2.0


class ScalingContext(Protocol):
    """What a policy reads of Serve's `AutoscalingContext`."""

    current_num_replicas: int
    target_num_replicas: int
    total_num_requests: float


class LedgerWatch:
    """The ledger's last view, kept fresh by a thread."""

    def __init__(self) -> None:
        self.view = LedgerView()
        threading.Thread(target=self._run, name="ledger-watch", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                ledger = ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)
                answer: Any = ray.get(ledger.read.remote(), timeout=_ANSWER_WITHIN_S)
                self.view = answer
            except (RayError, ValueError) as exc:
                # ValueError: nobody has started the ledger yet.
                logger.debug("the ledger did not answer: %s", type(exc).__name__)
            time.sleep(_READ_PERIOD_S)


class ReplicaTarget:
    """The number of replicas that was last decided, and since when less has been wanted."""

    def __init__(self, policy: ScalingPolicy, clock: Callable[[], float]) -> None:
        self.policy = policy
        self._clock = clock
        self._state = ScalingState(0)

    def decide(self, demand: PoolDemand, ctx: ScalingContext) -> int:
        """Decide anew; a target that someone else has set is taken as it is."""
        if self._state.num_replicas != ctx.target_num_replicas:
            self._state = ScalingState(ctx.target_num_replicas)
        self._state = desired_replicas(self.policy, demand, self._state, self._clock())
        return self._state.num_replicas


class BacklogScalingPolicy:
    """Replicas of one denoiser pool."""

    def __init__(
        self,
        pool: str,
        guess_units_per_s: float,
        policy: Mapping[str, Any],
        watch: Callable[[], LedgerView] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._guess_units_per_s = guess_units_per_s
        self._target = ReplicaTarget(ScalingPolicy(**policy), clock)
        self._read_view = watch or _watch_ledger()

    def __call__(self, ctx: ScalingContext) -> tuple[int, dict[str, Any]]:
        """Return the target; this object keeps its own state."""
        demand = to_demand(self._read_view(), self._pool, self._guess_units_per_s)
        return self._target.decide(demand, ctx), {}


class FollowerScalingPolicy:
    """Replicas of a stage that serves denoiser pools, ahead of what they will ask of it."""

    def __init__(
        self,
        pools: Mapping[str, Mapping[str, Any]],
        units_per_picture: float,
        busy_s_per_picture: float,
        target_ongoing_requests: float,
        policy: Mapping[str, Any],
        watch: Callable[[], LedgerView] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pools = pools
        self._units_per_picture = units_per_picture
        self._busy_s_per_picture = busy_s_per_picture
        self._target_ongoing_requests = target_ongoing_requests
        self._target = ReplicaTarget(ScalingPolicy(**policy), clock)
        self._read_view = watch or _watch_ledger()

    def __call__(self, ctx: ScalingContext) -> tuple[int, dict[str, Any]]:
        """Return the target: what the denoisers will need, or what is asked already."""
        view = self._read_view()
        demand = follow([self._lead(view, pool) for pool in self._pools], self._busy_s_per_picture)
        ongoing = ceil(ctx.total_num_requests / self._target_ongoing_requests)
        # Requests that are there already count as work that a replica has to hold.
        demand = replace(
            demand,
            arriving_units_per_s=max(
                demand.arriving_units_per_s, ongoing * self._target.policy.target_utilization
            ),
        )
        return self._target.decide(demand, ctx), {}

    def _lead(self, view: LedgerView, pool: str) -> LeadPool:
        settings = self._pools[pool]
        return LeadPool(
            policy=ScalingPolicy(**settings["policy"]),
            demand=to_demand(view, pool, settings["guess_units_per_s"]),
            num_replicas=len(view.pool(pool).takers),
            units_per_picture=self._units_per_picture,
        )


def to_demand(view: LedgerView, pool: str, guess_units_per_s: float) -> PoolDemand:
    """Sum what the ledger knows of one pool."""
    backlog = view.pool(pool).to_backlog()
    asked = view.asked.get(pool, AskedOfPool())
    is_known = backlog.num_replicas > 0 and backlog.units_per_s > 0
    return PoolDemand(
        replica_units_per_s=backlog.units_per_s / backlog.num_replicas
        if is_known
        else guess_units_per_s,
        backlog_units=backlog.backlog_units,
        waiting_units=asked.waiting_units,
        arriving_units_per_s=asked.arriving_units_per_s,
        refused_units_per_s=asked.refused_units_per_s,
    )


def _watch_ledger() -> Callable[[], LedgerView]:
    watch = LedgerWatch()
    return lambda: watch.view
