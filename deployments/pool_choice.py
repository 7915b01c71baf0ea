"""Which pool takes a call: the ledger's view, what was sent since, and the pure choice."""

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cluster.rates import ReplicaRate
from deployments.backlog import (
    GONE_AFTER_S,
    REPORT_PERIOD_S,
    STALE_AFTER_S,
    AgedReport,
    SentWork,
    find_takers,
    summarise_pool,
    unreported_for_s,
)
from deployments.demand import DemandReport, PoolMeter
from deployments.errors import (
    ApiError,
    InvalidFieldError,
    OverloadedError,
    UnmeetableDeadlineError,
)
from deployments.ledger import LedgerView
from deployments.routing.decisions import Choice, Reason, Refusal, RefusalKind, RequestFacts
from deployments.routing.paths import RoutingPolicy, choose_path, traffic_class
from deployments.routing.pools import PoolState, PoolTraits, build_state
from pipeline.request import Priority, RenderPath


@dataclass(frozen=True)
class Route:
    """Where a call goes."""

    pool: str
    path: RenderPath
    estimate_s: float
    """Seconds until the answer."""
    explanation: str
    units: float = 0.0
    is_cold: bool = False
    """Whether the pool had no replica when it was chosen."""
    reason: Reason = Reason.ONLY


class PoolChooser(Protocol):
    """Decides where a call goes, before any work is done."""

    def choose(self, facts: RequestFacts) -> Route:
        """Choose a pool.

        Raises:
            ApiError: If none can draw it, or none in time.
        """
        ...

    async def await_replica(self, route: Route) -> None:
        """Wait until the pool of a route has a replica."""
        ...


@dataclass(frozen=True)
class KnownPool:
    """A pool of the configuration, and a first guess at its speed."""

    traits: PoolTraits
    guess: ReplicaRate


@dataclass(frozen=True)
class _Sent:
    at_s: float
    units: float
    is_interactive: bool


class LedgerPoolChooser:
    """Chooses by the ledger's last view and by what this router has sent since."""

    def __init__(
        self,
        pools: Sequence[KnownPool],
        policy: RoutingPolicy,
        *,
        router_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pools = pools
        self._policy = policy
        self._router_id = router_id
        self._clock = clock
        self._view = LedgerView()
        self._viewed_s = clock()
        self._sent: dict[str, deque[_Sent]] = {pool.traits.name: deque() for pool in pools}
        self._meters = {pool.traits.name: PoolMeter(clock()) for pool in pools}
        self._previous: dict[tuple[bool, Priority], str] = {}
        self._sequence = 0

    def update(self, view: LedgerView) -> None:
        """Take the ledger's view."""
        self._view, self._viewed_s = view, self._clock()

    def read_demand(self) -> list[DemandReport]:
        """Return what this router was asked for, for the ledger."""
        self._sequence += 1
        now_s = self._clock()
        return [
            DemandReport(pool, self._router_id, self._sequence, meter.read(now_s))
            for pool, meter in self._meters.items()
        ]

    def states(self) -> list[PoolState]:
        """Return how every pool stands now."""
        age_s = self._clock() - self._viewed_s
        reports = [AgedReport(aged.report, aged.age_s + age_s) for aged in self._view.reports]
        return [
            build_state(
                pool.traits,
                summarise_pool(
                    pool.traits.name, reports, self._unreported_work(pool.traits.name, reports)
                ),
                pool.guess,
                is_least_loaded=False,
                waiting_units=self._meters[pool.traits.name].read(self._clock()).waiting_units,
            )
            for pool in self._pools
        ]

    def fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of the replicas that take work now."""
        age_s = self._clock() - self._viewed_s
        reports = [AgedReport(aged.report, aged.age_s + age_s) for aged in self._view.reports]
        return frozenset(aged.report.fingerprint for aged in find_takers(reports)) - {""}

    def choose(self, facts: RequestFacts) -> Route:
        """Choose a pool, and remember that the work went there."""
        states = self.states()
        is_measured = any(state.rate.overall.num_reports for state in states)
        # A first guess orders pools; it is not good enough to turn a caller away.
        asked = facts if is_measured else replace(facts, timeout_s=None)
        traffic = traffic_class(facts, self._policy)
        decision = choose_path(asked, states, self._policy, previous=self._previous.get(traffic))
        if isinstance(decision, Refusal):
            self._count_refused(decision)
            raise to_refusal_error(decision, facts)
        self._previous[traffic] = decision.pool
        self._count_sent(decision, facts)
        return Route(
            decision.pool,
            decision.path,
            decision.estimate_s,
            decision.explain(),
            decision.option.work.units,
            decision.option.is_cold,
            decision.reason,
        )

    async def await_replica(self, route: Route) -> None:
        """Wait until a cold pool has a replica, and let the ledger know what waits.

        What waits here, and not in Serve's handle, is seen by the scaling policy: Serve's own path
        from zero starts one replica, however much waits. Nothing waits for a silent ledger.
        """
        if not route.is_cold:
            return
        meter = self._meters[route.pool]
        meter.count_waiting(route.units)
        try:
            while self._is_fresh() and not self._has_replica(route.pool):
                await asyncio.sleep(REPORT_PERIOD_S)
        finally:
            meter.count_waiting(-route.units)

    def _is_fresh(self) -> bool:
        return self._clock() - self._viewed_s <= STALE_AFTER_S

    def _has_replica(self, pool: str) -> bool:
        return summarise_pool(pool, self._view.reports).num_replicas > 0

    def _count_sent(self, choice: Choice, facts: RequestFacts) -> None:
        now_s = self._clock()
        units = choice.option.work.units
        is_interactive = facts.priority is Priority.INTERACTIVE
        self._sent[choice.pool].append(_Sent(now_s, units, is_interactive))
        self._meters[choice.pool].count_sent(units, now_s)
        if choice.wished is not None:
            # A cold pool that would have been preferred: its demand is what wakes it.
            wished = choice.wished
            self._meters[wished.traits.name].count_refused(wished.work.units, now_s)

    def _count_refused(self, refusal: Refusal) -> None:
        # However many replicas there were, none would do in time what takes too long alone.
        if refusal.nearest is not None and refusal.own_s is None:
            meter = self._meters[refusal.nearest.traits.name]
            meter.count_refused(refusal.nearest.work.units, self._clock())

    def _unreported_work(self, pool: str, reports: Sequence[AgedReport]) -> list[SentWork]:
        """Return what was sent to a pool since its replicas reported, the latest first."""
        now_s, sent = self._clock(), self._sent[pool]
        while sent and now_s - sent[0].at_s > GONE_AFTER_S:
            sent.popleft()
        since_s = now_s - unreported_for_s(pool, reports)
        recent = itertools.takewhile(lambda work: work.at_s > since_s, reversed(sent))
        return [
            SentWork(pool, work.units, work.is_interactive, now_s - work.at_s) for work in recent
        ]


class FirstPoolChooser:
    """Takes the first pool of the path: for stages in one process, where nobody else draws."""

    def __init__(self, pools: Mapping[str, RenderPath]) -> None:
        self._pools = pools

    def choose(self, facts: RequestFacts) -> Route:
        """Choose a pool."""
        for pool, path in self._pools.items():
            if facts.pinned_path in (None, path):
                return Route(pool, path, 0.0, f"{pool} (first of {len(self._pools)})")
        raise InvalidFieldError(
            f"path must be one that a pool has, got {facts.pinned_path}", "path"
        )

    async def await_replica(self, route: Route) -> None:
        """Return at once: the pool is in this process."""


def to_refusal_error(refusal: Refusal, facts: RequestFacts) -> ApiError:
    """Turn a refusal into what the caller is told: whether to come again, or to ask otherwise."""
    if refusal.kind is RefusalKind.TOO_LARGE:
        return InvalidFieldError(f"size: {refusal.message}", "size")
    if refusal.own_s is not None:
        return UnmeetableDeadlineError(
            f"timeout_s must be at least {_round_up(refusal.own_s):.2f} for this picture, "
            f"got {facts.timeout_s or 0.0:g}",
            "timeout_s",
        )
    return OverloadedError(refusal.message, None, refusal.retry_after_s)


def _round_up(seconds: float) -> float:
    """Return what is enough, to the hundredth."""
    return math.ceil(100 * seconds) / 100
