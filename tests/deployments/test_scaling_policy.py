"""Serve's controller is told targets that follow work, and demand that found no replica."""

from dataclasses import dataclass

from hand_clock import HandClock

from cluster.rates import ReplicaRate, SmoothedRate
from deployments.backlog import AgedReport, ReplicaReport
from deployments.demand import AskedOfPool
from deployments.ledger import LedgerView
from deployments.scaling_policy import BacklogScalingPolicy, FollowerScalingPolicy

BOUNDS = {"min_replicas": 0, "max_replicas": 8, "down_delay_s": 60.0, "to_zero_delay_s": 120.0}


@dataclass
class Context:
    current_num_replicas: int
    target_num_replicas: int
    total_num_requests: float = 0.0


class Watched:
    """A ledger's view that the test sets."""

    def __init__(self) -> None:
        self.view = LedgerView()

    def __call__(self) -> LedgerView:
        return self.view


def _report(backlog_units: float) -> AgedReport:
    report = ReplicaReport(
        pool="h800",
        replica_id="a",
        sequence=1,
        backlog_units=backlog_units,
        interactive_backlog_units=backlog_units,
        max_backlog_units=512.0,
        rate=ReplicaRate(SmoothedRate(10.0, 9)),
    )
    return AgedReport(report, 0.0)


def _policy(watched: Watched, clock: HandClock) -> BacklogScalingPolicy:
    return BacklogScalingPolicy("h800", 10.0, BOUNDS, watched, clock)


def test_a_burst_at_a_cold_pool_wakes_several_replicas_at_once() -> None:
    watched = Watched()
    watched.view = LedgerView(asked={"h800": AskedOfPool(waiting_units=300.0)})

    target, _ = _policy(watched, HandClock())(Context(0, 0))

    assert target == 3


def test_refused_demand_wakes_a_cold_pool() -> None:
    watched = Watched()
    watched.view = LedgerView(asked={"h800": AskedOfPool(refused_units_per_s=1.0)})

    target, _ = _policy(watched, HandClock())(Context(0, 0))

    assert target == 1


def test_nothing_asked_leaves_a_cold_pool_cold() -> None:
    target, _ = _policy(Watched(), HandClock())(Context(0, 0))

    assert target == 0


def test_a_backlog_adds_replicas_at_once() -> None:
    watched = Watched()
    watched.view = LedgerView((_report(backlog_units=320.0),))

    target, _ = _policy(watched, HandClock())(Context(1, 1))

    assert target > 1


def test_replicas_go_only_after_the_delay() -> None:
    watched, clock = Watched(), HandClock()
    watched.view = LedgerView((_report(0.0),))
    policy = _policy(watched, clock)

    early, _ = policy(Context(4, 4))
    clock.advance(61)
    late, _ = policy(Context(4, 4))

    assert (early, late) == (4, 3)


def test_a_follower_comes_up_with_the_demand_of_its_pools() -> None:
    watched = Watched()
    watched.view = LedgerView((_report(0.0),), {"h800": AskedOfPool(arriving_units_per_s=64.0)})
    pools = {"h800": {"guess_units_per_s": 10.0, "policy": BOUNDS}}
    follower = FollowerScalingPolicy(pools, 2.0, 0.1, 2.0, BOUNDS, watched, HandClock())

    target, _ = follower(Context(1, 1))

    assert target == 4


def test_a_follower_serves_what_is_there_already() -> None:
    pools = {"h800": {"guess_units_per_s": 10.0, "policy": BOUNDS}}
    follower = FollowerScalingPolicy(pools, 2.0, 0.1, 2.0, BOUNDS, Watched(), HandClock())

    target, _ = follower(Context(1, 1, total_num_requests=6.0))

    assert target == 3
