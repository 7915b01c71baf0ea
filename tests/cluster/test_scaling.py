from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import CapacityError
from cluster.scaling import (
    LeadPool,
    PoolDemand,
    ScalingPolicy,
    ScalingState,
    desired_replicas,
    follow,
)

POLICY = ScalingPolicy(min_replicas=0, max_replicas=100)
RATE = 40.0
IDLE = PoolDemand(RATE)


def decide(demand: PoolDemand, num_replicas: int, policy: ScalingPolicy = POLICY) -> int:
    return desired_replicas(policy, demand, ScalingState(num_replicas), now_s=0.0).num_replicas


def decide_for(
    demand: PoolDemand, state: ScalingState, seconds: int, policy: ScalingPolicy = POLICY
) -> list[int]:
    targets = []
    for now_s in range(seconds):
        state = desired_replicas(policy, demand, state, float(now_s))
        targets.append(state.num_replicas)
    return targets


def test_steady_work_gets_the_replicas_that_keep_them_busy_to_the_target() -> None:
    assert decide(PoolDemand(RATE, arriving_units_per_s=8 * RATE), 0) == 10


def test_a_burst_from_zero_gets_more_than_one_replica_at_once() -> None:
    assert decide(PoolDemand(RATE, waiting_units=2000.0), 0) == 5


def test_backlog_beyond_what_replicas_may_hold_adds_some_at_once() -> None:
    arriving = 0.8 * 4 * RATE
    held = PoolDemand(RATE, backlog_units=4 * RATE * 2.0, arriving_units_per_s=arriving)
    excess = PoolDemand(RATE, backlog_units=4 * RATE * 12.0, arriving_units_per_s=arriving)
    assert (decide(held, 4), decide(excess, 4)) == (4, 8)


def test_refused_work_counts_as_if_it_had_come() -> None:
    assert decide(PoolDemand(RATE, refused_units_per_s=2 * RATE), 0) == 3


def test_the_bounds_hold() -> None:
    policy = ScalingPolicy(min_replicas=2, max_replicas=5)
    assert decide(PoolDemand(RATE, waiting_units=1e6), 2, policy) == 5
    assert decide(IDLE, 0, policy) == 2


def test_nothing_is_taken_away_before_the_delay_and_then_a_quarter_at_most() -> None:
    targets = decide_for(PoolDemand(RATE, arriving_units_per_s=RATE), ScalingState(40), 1300)
    assert targets[299] == 40
    assert targets[300] == 30
    assert targets[601] == 23
    assert min(targets) > 2


def test_the_last_replica_goes_after_its_own_delay() -> None:
    targets = decide_for(IDLE, ScalingState(1), 1000)
    assert targets[899] == 1
    assert targets[900] == 0


def test_an_idle_pool_shrinks_before_its_last_replica_may_go() -> None:
    targets = decide_for(IDLE, ScalingState(8), 5000)
    assert targets[300] == 6
    assert targets[-1] == 0


def test_a_pool_that_may_not_be_empty_keeps_its_fewest() -> None:
    policy = ScalingPolicy(min_replicas=1, max_replicas=5)
    assert decide_for(IDLE, ScalingState(3), 5000, policy)[-1] == 1


def test_little_work_that_is_held_keeps_a_replica() -> None:
    assert decide_for(PoolDemand(RATE, backlog_units=0.1), ScalingState(1), 2000)[-1] == 1


def test_what_was_wanted_in_the_window_is_not_taken_away() -> None:
    busy = PoolDemand(RATE, arriving_units_per_s=0.8 * 8 * RATE)
    state = desired_replicas(POLICY, IDLE, ScalingState(10), 0.0)
    state = desired_replicas(POLICY, busy, state, 299.0)
    assert desired_replicas(POLICY, IDLE, state, 301.0).num_replicas == 8


@pytest.mark.parametrize(("least", "most"), [(-1, 1), (2, 1)])
def test_bounds_that_contradict_are_refused(least: int, most: int) -> None:
    with pytest.raises(CapacityError, match="min_replicas must be in"):
        ScalingPolicy(least, most)


def test_a_utilization_outside_its_range_is_refused() -> None:
    with pytest.raises(CapacityError, match=r"target_utilization must be in \(0, 1\], got 0"):
        ScalingPolicy(0, 1, target_utilization=0)


def units(most: float) -> st.SearchStrategy[float]:
    """Draw units, or a rate of them: none, or at least what a sum of shares does not lose."""
    return st.floats(0, most).map(lambda drawn: round(drawn, 6))


DEMANDS = st.builds(PoolDemand, st.floats(0.1, 100), units(1e5), units(1e5), units(1e4), units(1e4))


@given(st.lists(st.tuples(DEMANDS, st.floats(0, 500)), max_size=30), st.integers(0, 5))
def test_the_target_is_within_bounds_and_never_falls_by_more_than_its_share(
    steps: list[tuple[PoolDemand, float]], least: int
) -> None:
    policy = ScalingPolicy(least, 50)
    states = [ScalingState(least)]
    now_s = 0.0
    for demand, elapsed_s in steps:
        now_s += elapsed_s
        states.append(desired_replicas(policy, demand, states[-1], now_s))
    targets = [state.num_replicas for state in states]
    assert all(least <= target <= 50 for target in targets)
    falls = pairwise(targets)
    assert all(after >= before - max(1, before // 4) for before, after in falls)


@given(DEMANDS)
def test_a_pool_at_zero_wakes_for_any_demand(demand: PoolDemand) -> None:
    asked = demand.waiting_units + demand.arriving_units_per_s + demand.refused_units_per_s
    assert (decide(demand, 0) > 0) is (asked + demand.backlog_units > 0)


def test_a_vae_decoder_is_scaled_to_what_the_denoisers_are_scaled_to() -> None:
    burst = PoolDemand(RATE, waiting_units=100 * RATE * 10.0)
    lead = LeadPool(POLICY, burst, num_replicas=0, units_per_picture=34.5)
    demand = follow([lead, lead], busy_s_per_picture=0.09)
    # 200 denoisers at 80 % of 40 units/s make 185.5 pictures/s: 16.7 busy seconds a second.
    assert decide(demand, 1) == 21


def test_followers_do_not_count_on_denoisers_beyond_their_bound() -> None:
    endless = LeadPool(POLICY, PoolDemand(RATE, waiting_units=1e9), 0, units_per_picture=40.0)
    assert follow([endless], 1.0).arriving_units_per_s == pytest.approx(100.0)
