"""Who takes a request: the service's own choice, and the usual ones to compare it with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from operator import attrgetter
from random import Random
from typing import Final, Protocol

from deployments.routing.decisions import Option, PassWork, Refusal, RequestFacts, Work
from deployments.routing.paths import RoutingPolicy, choose_path, traffic_class
from deployments.routing.predictions import estimate_work
from deployments.simulator.pool import SimulatedPool
from deployments.simulator.replica import SimulatedReplica
from deployments.simulator.step_loop import find_due_s
from pipeline.request import Priority, RenderPath


@dataclass(frozen=True, slots=True)
class Assignment:
    """A request goes to this pool."""

    pool: SimulatedPool
    work: Work
    estimate_s: float = nan
    """Not a number where nothing was predicted."""
    replica: SimulatedReplica | None = None
    """Where pool and replica are one choice."""


def plan_turns(assignment: Assignment) -> list[PassWork]:
    """Return what replicas are asked for, one after another: in a tiled pool, tiles of one step."""
    passes = assignment.work.passes
    if assignment.pool.traits.path is RenderPath.FULL_IMAGE or assignment.replica is not None:
        return list(passes)
    return [replace(one, num_steps=1) for one in passes for _ in range(one.num_steps)]


class Dispatcher(Protocol):
    """Assigns requests: a pool on arrival, and a replica when the prompt is encoded."""

    def assign(
        self, facts: RequestFacts, pools: Sequence[SimulatedPool], now_s: float
    ) -> Assignment | Refusal:
        """Choose a pool, or refuse."""
        ...

    def choose_replica(
        self, assignment: Assignment, facts: RequestFacts, now_s: float
    ) -> SimulatedReplica | None:
        """Choose a replica of a pool that has some, or None if all are full."""
        ...


class CostDispatcher:
    """The service: `choose_path`, then of two replicas the one with fewer requests, or turns."""

    _is_least_loaded = False

    def __init__(self, policy: RoutingPolicy, draws: Random | None = None) -> None:
        """Take the operator's policy, and what replicas are drawn with."""
        self._policy = policy
        self._draws = draws or Random(0)
        self._previous: dict[tuple[bool, Priority], str] = {}

    def assign(
        self, facts: RequestFacts, pools: Sequence[SimulatedPool], now_s: float
    ) -> Assignment | Refusal:
        """Decide as a router does."""
        for pool in pools:
            pool.refresh(now_s, is_least_loaded=self._is_least_loaded)
        traffic = traffic_class(facts, self._policy)
        decision = choose_path(facts, pools, self._policy, previous=self._previous.get(traffic))
        if isinstance(decision, Refusal):
            return decision
        self._previous[traffic] = decision.pool
        option = decision.option
        if decision.wished is not None:
            wished = _find_pool(pools, decision.wished)
            wished.meter.count_refused(decision.wished.work.units, now_s)
        pool = _find_pool(pools, option)
        return Assignment(pool, option.work, option.completion_s)

    def choose_replica(
        self, assignment: Assignment, facts: RequestFacts, now_s: float
    ) -> SimulatedReplica | None:
        """Choose as Ray's request router of the pool does, again while it is full."""
        pool = assignment.pool
        for _ in range(_MAX_DRAWS):
            replica = self._draw_replica(pool, facts)
            if not _is_full(pool, replica, assignment.work, now_s, facts):
                return replica
        return None

    def _draw_replica(self, pool: SimulatedPool, facts: RequestFacts) -> SimulatedReplica:
        if pool.traits.path is RenderPath.TILED:
            return pool.take_turn()
        return self._draw_of_whole_pictures(pool, facts)

    def _draw_of_whole_pictures(self, pool: SimulatedPool, _: RequestFacts) -> SimulatedReplica:
        return _choose_of_two(pool.replicas, self._draws)


class LeastWorkDispatcher(CostDispatcher):
    """`choose_path`, then the replica with the least work ahead, which Ray does not know."""

    _is_least_loaded = True

    def _draw_of_whole_pictures(self, pool: SimulatedPool, facts: RequestFacts) -> SimulatedReplica:
        return pool.get_least_loaded(is_batch=facts.priority is Priority.BATCH)


class TwoChoicesDispatcher:
    """Ray's default over all replicas of all pools: of two at random, the one with fewer.

    Pools are one deployment to it, so a replica draws a picture alone.
    """

    def __init__(self, draws: Random) -> None:
        self._draws = draws

    def assign(
        self, facts: RequestFacts, pools: Sequence[SimulatedPool], now_s: float
    ) -> Assignment | Refusal:
        """Decide by counts of requests."""
        places = _draw_two(sum(pool.num_replicas for pool in pools), self._draws)
        candidates = [_find_place(pools, place) for place in places]
        pool, replica = min(candidates, key=lambda candidate: candidate[1].num_ongoing)
        return Assignment(pool, _work_alone(facts, pool), replica=replica)

    def choose_replica(
        self, assignment: Assignment, facts: RequestFacts, now_s: float
    ) -> SimulatedReplica | None:
        """Keep to the choice."""
        return assignment.replica


class RoundRobinDispatcher:
    """One after another over all replicas of all pools; each draws a picture alone."""

    def __init__(self) -> None:
        self._next = 0

    def assign(
        self, facts: RequestFacts, pools: Sequence[SimulatedPool], now_s: float
    ) -> Assignment | Refusal:
        """Decide by nothing."""
        place = self._next % sum(pool.num_replicas for pool in pools)
        self._next += 1
        pool, replica = _find_place(pools, place)
        return Assignment(pool, _work_alone(facts, pool), replica=replica)

    def choose_replica(
        self, assignment: Assignment, facts: RequestFacts, now_s: float
    ) -> SimulatedReplica | None:
        """Keep to the choice."""
        return assignment.replica


_MAX_DRAWS: Final = 10
"""So often does a refused request go back to the request router."""


def _find_pool(pools: Sequence[SimulatedPool], option: Option) -> SimulatedPool:
    return next(pool for pool in pools if pool.traits is option.traits)


def _find_place(
    pools: Sequence[SimulatedPool], place: int
) -> tuple[SimulatedPool, SimulatedReplica]:
    for pool in pools:
        if place < pool.num_replicas:
            return pool, pool.replicas[place]
        place -= pool.num_replicas
    raise IndexError(f"place must be below the number of replicas, got {place} more")


def _choose_of_two(replicas: Sequence[SimulatedReplica], draws: Random) -> SimulatedReplica:
    drawn = [replicas[place] for place in _draw_two(len(replicas), draws)]
    return min(drawn, key=attrgetter("num_ongoing"))


def _draw_two(count: int, draws: Random) -> tuple[int, ...]:
    """Draw two different places, in random order, as Ray's `PowerOfTwoChoicesRequestRouter`."""
    one = draws.randrange(count)
    if count == 1:
        return (one,)
    other = draws.randrange(count - 1)
    return one, other + (other >= one)


def _work_alone(facts: RequestFacts, pool: SimulatedPool) -> Work:
    """Return the work of the pool's own way, in as many forwards as the schedule has steps."""
    units = estimate_work(facts, pool.traits).units
    num_forwards = facts.num_inference_steps * facts.forwards_per_step
    return Work((PassWork(num_forwards, 1, units / num_forwards),))


def _is_full(
    pool: SimulatedPool,
    replica: SimulatedReplica,
    work: Work,
    now_s: float,
    facts: RequestFacts,
) -> bool:
    if facts.is_job or not replica.loop.held:
        return False
    is_batch = facts.priority is Priority.BATCH
    free_s = replica.free_s if is_batch else replica.interactive_free_s
    held_units = max(0.0, free_s - now_s) * pool.rate.overall.units_per_s
    if held_units and held_units + work.units > pool.traits.max_held_units:
        return True
    return pool.traits.path is RenderPath.FULL_IMAGE and _lacks_time(
        pool, replica, work, now_s, facts
    )


def _lacks_time(
    pool: SimulatedPool,
    replica: SimulatedReplica,
    work: Work,
    now_s: float,
    facts: RequestFacts,
) -> bool:
    if facts.timeout_s is None:
        return False
    own_s = sum(one.num_forwards * pool.plan.forward_s(one.tile_units) for one in work.passes)
    due_s = find_due_s(own_s, facts.timeout_s, now_s)
    ahead_s = replica.loop.count_ahead_s(due_s, is_batch=facts.priority is Priority.BATCH)
    return ahead_s + own_s > facts.timeout_s
