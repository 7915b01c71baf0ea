"""Which pool takes a call: the ledger's view, what was sent since, and the pure choice."""

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from cluster.rates import ReplicaRate
from deployments.backlog import (
    GONE_AFTER_S,
    REPORT_PERIOD_S,
    STALE_AFTER_S,
    PoolReports,
    SentWork,
    find_takers,
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

_AT_ONCE_S: Final = REPORT_PERIOD_S / 5
"""What is sent within this is remembered as sent at the time of its last."""


@dataclass(frozen=True)
class Route:
    """Where a call goes."""

    pool: str
    path: RenderPath
    estimate_s: float
    """Seconds until the answer."""
    explanation: str
    units: float = 0.0
    is_interactive: bool = True
    is_cold: bool = False
    """Whether the pool had no replica when it was chosen."""
    reason: Reason = Reason.ONLY
    serial: int = 0
    """Of a router's choices."""


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

    def send(self, route: Route) -> None:
        """Note that a route's work leaves for its pool, whose reports will tell of it."""
        ...

    def drop(self, route: Route) -> None:
        """Note that a route's work will not leave any more, if it has not yet."""
        ...


@dataclass(frozen=True)
class KnownPool:
    """A pool of the configuration, and a first guess at its speed."""

    traits: PoolTraits
    guess: ReplicaRate


@dataclass
class _Sent:
    """What went to a pool at about one time, so that a silent ledger makes no long list."""

    begun_s: float
    at_s: float
    """Of the last of it."""
    units: float
    num_requests: int = 1


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
        self._heard_s = clock()
        self._held: dict[int, Route] = {}
        """By serial: chosen, and in this router yet, the prompt being encoded."""
        self._sent: dict[tuple[str, bool], deque[_Sent]] = {
            (pool.traits.name, is_interactive): deque()
            for pool in pools
            for is_interactive in (True, False)
        }
        self._meters = {pool.traits.name: PoolMeter(clock()) for pool in pools}
        self._previous: dict[tuple[bool, Priority], str] = {}
        self._sequence = 0
        self._serial = 0

    def update(self, view: LedgerView) -> None:
        """Take the ledger's view."""
        self._view = view
        self._viewed_s = self._heard_s = self._clock()

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
        now_s = self._clock()
        view = self._read_view(now_s)
        return [self._to_state(pool, view, now_s) for pool in self._pools]

    def _to_state(self, pool: KnownPool, view: LedgerView, now_s: float) -> PoolState:
        name = pool.traits.name
        reports, after_s = view.pool(name), now_s - self._viewed_s
        sent = [*self._list_held(name), *self._list_sent(name, reports, now_s)]
        return build_state(
            pool.traits,
            reports.to_backlog(sent, after_s=after_s),
            reports.typical_rate(pool.guess),
            waiting_units=self._meters[name].read(now_s).waiting_units,
        )

    def fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of the replicas that take work now."""
        takers = find_takers(self._read_view(self._clock()).reports)
        return frozenset(aged.report.fingerprint for aged in takers) - {""}

    def _read_view(self, now_s: float) -> LedgerView:
        """Return the ledger's view, whose sums over pools are kept for as long as they hold."""
        after_s = now_s - self._viewed_s
        if after_s > self._view.valid_for_s:
            self._view, self._viewed_s = self._view.age(after_s), now_s
        return self._view

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
        self._count_asked(decision)
        self._serial += 1
        route = Route(
            pool=decision.pool,
            path=decision.path,
            estimate_s=decision.estimate_s,
            explanation=decision.explain(),
            units=decision.option.work.units,
            is_interactive=facts.priority is Priority.INTERACTIVE,
            is_cold=decision.option.is_cold,
            reason=decision.reason,
            serial=self._serial,
        )
        self._held[route.serial] = route
        return route

    def send(self, route: Route) -> None:
        """Note that a route's work leaves for its pool, whose reports will tell of it."""
        self.drop(route)
        now_s, sent = self._clock(), self._sent[route.pool, route.is_interactive]
        if sent and now_s - sent[-1].begun_s < _AT_ONCE_S:
            last = sent[-1]
            last.at_s, last.units = now_s, last.units + route.units
            last.num_requests += 1
        else:
            sent.append(_Sent(now_s, now_s, route.units))

    def drop(self, route: Route) -> None:
        """Note that a route's work will not leave any more, if it has not yet."""
        self._held.pop(route.serial, None)

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
            while self._is_fresh() and not self._view.pool(route.pool).takers:
                await asyncio.sleep(REPORT_PERIOD_S)
        finally:
            meter.count_waiting(-route.units)

    def _is_fresh(self) -> bool:
        return self._clock() - self._heard_s <= STALE_AFTER_S

    def _count_asked(self, choice: Choice) -> None:
        now_s = self._clock()
        self._meters[choice.pool].count_sent(choice.option.work.units, now_s)
        if choice.wished is not None:
            # A cold pool that would have been preferred: its demand is what wakes it.
            wished = choice.wished
            self._meters[wished.traits.name].count_refused(wished.work.units, now_s)

    def _count_refused(self, refusal: Refusal) -> None:
        # However many replicas there were, none would do in time what takes too long alone.
        if refusal.nearest is not None and refusal.own_s is None:
            meter = self._meters[refusal.nearest.traits.name]
            meter.count_refused(refusal.nearest.work.units, self._clock())

    def _list_held(self, pool: str) -> Iterator[SentWork]:
        for route in self._held.values():
            if route.pool == pool:
                yield SentWork(route.units, route.is_interactive, age_s=0.0)

    def _list_sent(self, pool: str, reports: PoolReports, now_s: float) -> Iterator[SentWork]:
        """List what was sent to a pool since its replicas reported."""
        since_s = self._viewed_s - reports.unreported_for_s
        for is_interactive in (True, False):
            sent = self._sent[pool, is_interactive]
            while sent and now_s - sent[0].at_s > GONE_AFTER_S:
                sent.popleft()
            for one in itertools.takewhile(lambda one: one.at_s > since_s, reversed(sent)):
                yield SentWork(one.units, is_interactive, now_s - one.at_s, one.num_requests)


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

    def send(self, route: Route) -> None:
        """Do nothing: nobody asks how much is on its way."""

    def drop(self, route: Route) -> None:
        """Do nothing: nobody asks how much is on its way."""


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
