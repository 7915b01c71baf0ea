"""Which pool takes a call: the ledger's view, what was sent since, and the pure choice."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cluster.rates import ReplicaRate, SmoothedRate
from deployments.backlog import GONE_AFTER_S, AgedReport, SentWork, find_takers, summarise_pool
from deployments.demand import DemandReport, PoolMeter
from deployments.errors import (
    ApiError,
    DeadlineExceededError,
    InvalidFieldError,
    OverloadedError,
)
from deployments.ledger import LedgerView
from deployments.routing.decisions import Choice, Refusal, RefusalKind, RequestFacts
from deployments.routing.paths import RoutingPolicy, choose_path, traffic_class
from deployments.routing.pools import PoolState, PoolTraits
from pipeline.request import Priority, RenderPath


@dataclass(frozen=True)
class Route:
    """Where a call goes."""

    pool: str
    path: RenderPath
    estimate_s: float
    """Seconds until the answer."""
    explanation: str


class PoolChooser(Protocol):
    """Decides where a call goes, before any work is done."""

    def choose(self, facts: RequestFacts) -> Route:
        """Choose a pool.

        Raises:
            ApiError: If none can draw it, or none in time.
        """
        ...


@dataclass(frozen=True)
class KnownPool:
    """A pool of the configuration, and a first guess at its speed."""

    traits: PoolTraits
    guess: ReplicaRate


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
        self._sent: deque[tuple[float, SentWork]] = deque()
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
        sent = self._recent_work()
        return [_to_state(pool, reports, sent) for pool in self._pools]

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
        return Route(decision.pool, decision.path, decision.estimate_s, decision.explain())

    def _count_sent(self, choice: Choice, facts: RequestFacts) -> None:
        now_s = self._clock()
        units = choice.option.work.units
        is_interactive = facts.priority is Priority.INTERACTIVE
        self._sent.append((now_s, SentWork(choice.pool, units, is_interactive, age_s=0.0)))
        self._meters[choice.pool].count_sent(units, now_s)

    def _count_refused(self, refusal: Refusal) -> None:
        if refusal.nearest is not None:
            meter = self._meters[refusal.nearest.traits.name]
            meter.count_refused(refusal.nearest.work.units, self._clock())

    def _recent_work(self) -> list[SentWork]:
        now_s = self._clock()
        while self._sent and now_s - self._sent[0][0] > GONE_AFTER_S:
            self._sent.popleft()
        return [replace(work, age_s=now_s - at_s) for at_s, work in self._sent]


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


def to_refusal_error(refusal: Refusal, facts: RequestFacts) -> ApiError:
    """Turn a refusal into what the caller is told: whether to come again, or to ask otherwise."""
    if refusal.kind is RefusalKind.TOO_LARGE:
        return InvalidFieldError(f"size: {refusal.message}", "size")
    if refusal.kind is RefusalKind.DEADLINE and refusal.nearest is not None:
        own_s = refusal.nearest.own_s
        if facts.timeout_s is not None and own_s > facts.timeout_s:
            return DeadlineExceededError(
                f"timeout_s must be at least {own_s:.2g} for this picture, got {facts.timeout_s:g}",
                "timeout_s",
            )
    return OverloadedError(refusal.message, None, refusal.retry_after_s)


def _to_state(
    pool: KnownPool, reports: Sequence[AgedReport], sent: Sequence[SentWork]
) -> PoolState:
    name = pool.traits.name
    backlog = summarise_pool(name, reports, sent)
    takers = find_takers(aged for aged in reports if aged.report.pool == name)
    return PoolState(
        traits=pool.traits,
        rate=_mean_rate([aged.report.rate for aged in takers]) or pool.guess,
        num_replicas=backlog.num_replicas,
        num_idle_replicas=backlog.num_idle_replicas,
        backlog_units=backlog.backlog_units,
        interactive_backlog_units=backlog.interactive_backlog_units,
        max_backlog_units=backlog.max_backlog_units,
        units_per_s=backlog.units_per_s,
        is_healthy=backlog.num_replicas > 0 or not backlog.num_unhealthy,
    )


def _mean_rate(rates: Sequence[ReplicaRate]) -> ReplicaRate | None:
    """Return the rate of a typical replica: the mean of those that were measured."""
    measured = [rate for rate in rates if rate.overall.num_reports] or list(rates)
    if not measured:
        return None
    by_size = {
        size: _mean([rate.by_size[size] for rate in measured if size in rate.by_size])
        for size in {size for rate in measured for size in rate.by_size}
    }
    return ReplicaRate(_mean([rate.overall for rate in measured]), by_size)


def _mean(rates: Sequence[SmoothedRate]) -> SmoothedRate:
    return SmoothedRate(
        sum(rate.units_per_s for rate in rates) / len(rates),
        max(rate.num_reports for rate in rates),
    )
