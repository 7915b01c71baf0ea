"""Who takes a request: the service's own choice, and the usual ones to compare it with."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from deployments.routing.decisions import Refusal, RefusalKind, RequestFacts, Work
from deployments.routing.paths import RoutingPolicy, choose_path, traffic_class
from deployments.routing.predictions import estimate_work
from deployments.simulator.pool import SimulatedPool
from deployments.simulator.replica import SimulatedReplica
from pipeline.request import Priority


@dataclass(frozen=True, slots=True)
class Assignment:
    """A request goes to this replica, or waits for the pool's first."""

    pool: SimulatedPool
    work: Work
    replica: SimulatedReplica | None
    estimate_s: float | None = None


class Dispatcher(Protocol):
    """Assigns a request at one moment."""

    def assign(
        self, facts: RequestFacts, pools: Sequence[SimulatedPool], now_s: float
    ) -> Assignment | Refusal:
        """Decide, or refuse."""
        ...


class CostDispatcher:
    """`choose_path`, then the replica with the least work ahead."""

    def __init__(self, policy: RoutingPolicy) -> None:
        self._policy = policy
        self._previous: dict[tuple[bool, Priority], str] = {}

    def assign(
        self, facts: RequestFacts, pools: Sequence[SimulatedPool], now_s: float
    ) -> Assignment | Refusal:
        """Decide as a router does."""
        for pool in pools:
            pool.refresh(now_s)
        traffic = traffic_class(facts, self._policy)
        decision = choose_path(facts, pools, self._policy, previous=self._previous.get(traffic))
        if isinstance(decision, Refusal):
            return decision
        self._previous[traffic] = decision.pool
        option = decision.option
        pool = next(pool for pool in pools if pool.traits is option.traits)
        if option.is_cold:
            return Assignment(pool, option.work, None, option.completion_s)
        replica = self._choose_replica(pool, facts)
        if replica is None or _is_full(pool, replica, option.work, now_s, facts):
            message = "every replica of the pool is full"
            return Refusal(RefusalKind.BUSY, 1, message, option)
        return Assignment(pool, option.work, replica, option.completion_s)

    def _choose_replica(self, pool: SimulatedPool, facts: RequestFacts) -> SimulatedReplica | None:
        return pool.find_least_loaded(is_batch=facts.priority is Priority.BATCH)


class TwoChoicesInPoolDispatcher(CostDispatcher):
    """`choose_path`, then Ray's own request router within the pool."""

    def __init__(self, policy: RoutingPolicy, draws: Random) -> None:
        super().__init__(policy)
        self._draws = draws

    def _choose_replica(self, pool: SimulatedPool, facts: RequestFacts) -> SimulatedReplica | None:
        return _choose_of_two(pool.replicas, self._draws)


class TwoChoicesDispatcher:
    """Ray's default over all replicas of all pools: of two at random, the one with fewer."""

    def __init__(self, draws: Random) -> None:
        self._draws = draws

    def assign(
        self, facts: RequestFacts, pools: Sequence[SimulatedPool], now_s: float
    ) -> Assignment | Refusal:
        """Decide by counts of requests."""
        draws, count = self._draws, sum(pool.num_replicas for pool in pools)
        places = [draws.randrange(count) for _ in range(2)]
        candidates = [_find_place(pools, place) for place in places]
        pool, replica = min(candidates, key=lambda candidate: candidate[1].num_ongoing)
        return Assignment(pool, estimate_work(facts, pool.traits), replica)


class RoundRobinDispatcher:
    """One after another over all replicas of all pools."""

    def __init__(self) -> None:
        self._next = 0

    def assign(
        self, facts: RequestFacts, pools: Sequence[SimulatedPool], now_s: float
    ) -> Assignment | Refusal:
        """Decide by nothing."""
        place = self._next % sum(pool.num_replicas for pool in pools)
        self._next += 1
        pool, replica = _find_place(pools, place)
        return Assignment(pool, estimate_work(facts, pool.traits), replica)


def _find_place(
    pools: Sequence[SimulatedPool], place: int
) -> tuple[SimulatedPool, SimulatedReplica]:
    for pool in pools:
        if place < pool.num_replicas:
            return pool, pool.replicas[place]
        place -= pool.num_replicas
    raise IndexError(f"place must be below the number of replicas, got {place} more")


def _choose_of_two(replicas: Sequence[SimulatedReplica], draws: Random) -> SimulatedReplica:
    one, other = (replicas[draws.randrange(len(replicas))] for _ in range(2))
    return one if one.num_ongoing <= other.num_ongoing else other


def _is_full(
    pool: SimulatedPool, replica: SimulatedReplica, work: Work, now_s: float, facts: RequestFacts
) -> bool:
    if facts.is_job or not replica.loop.held:
        return False
    held_units = (replica.free_s - now_s) * pool.rate.overall.units_per_s
    return held_units + work.units > pool.plan.max_held_units
