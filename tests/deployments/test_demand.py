import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.scaling import PoolDemand, ScalingPolicy, ScalingState, desired_replicas
from deployments.demand import (
    SLOW_S,
    AskedOfPool,
    DemandReport,
    PoolMeter,
    RateMeter,
    sum_demand,
)


def feed(meter: RateMeter, units_per_s: float, since_s: float, until_s: float) -> None:
    for tick in range(int(since_s * 10), int(until_s * 10)):
        meter.add(units_per_s / 10, tick / 10)


@given(st.floats(1, 1000), st.integers(30, 400))
def test_a_steady_rate_is_measured(units_per_s: float, seconds: int) -> None:
    meter = RateMeter(0.0)
    feed(meter, units_per_s, 0, seconds)
    assert meter.units_per_s(float(seconds)) == pytest.approx(units_per_s, rel=0.05)


def test_a_burst_shows_within_five_seconds() -> None:
    meter = RateMeter(0.0)
    feed(meter, 10, 0, 120)
    feed(meter, 100, 120, 125)
    assert meter.units_per_s(125.0) > 60


def test_a_burst_is_forgotten_slowly() -> None:
    meter = RateMeter(0.0)
    feed(meter, 100, 0, 120)
    assert 30 < meter.units_per_s(150.0) < 70
    assert meter.units_per_s(179.0) > 0


def test_a_rate_is_zero_where_nothing_has_come_for_a_minute() -> None:
    meter = RateMeter(0.0)
    feed(meter, 100, 0, 120)
    assert meter.units_per_s(120.0 + SLOW_S) == 0.0
    meter.add(10.0, 200.0)
    assert meter.units_per_s(200.0) > 0


def test_a_pool_that_was_used_sleeps_a_minute_and_its_delay_later() -> None:
    meter, policy = PoolMeter(0.0), ScalingPolicy(0, 3, to_zero_delay_s=30.0)
    meter.count_sent(20.0, 0.0)
    state, slept_s = ScalingState(1), 0
    while state.num_replicas:
        slept_s += 1
        asked = meter.read(float(slept_s))
        demand = PoolDemand(40.0, arriving_units_per_s=asked.arriving_units_per_s)
        state = desired_replicas(policy, demand, state, float(slept_s))
        assert slept_s < 200
    assert slept_s > SLOW_S + policy.to_zero_delay_s - 2


def test_a_meter_that_counted_nothing_reads_zero() -> None:
    assert RateMeter(0.0).units_per_s(5.0) == 0.0


def test_a_pool_meter_tells_arrivals_refusals_and_waiting_apart() -> None:
    meter = PoolMeter(0.0)
    meter.count_sent(10.0, 0.0)
    meter.count_refused(5.0, 0.0)
    meter.count_waiting(20.0)
    meter.count_waiting(-8.0)
    asked = meter.read(0.0)
    assert asked.arriving_units_per_s == pytest.approx(2 * asked.refused_units_per_s)
    assert asked.waiting_units == 12.0


def test_the_demand_for_a_pool_is_the_sum_over_routers() -> None:
    one = DemandReport("h800", "r1", 1, AskedOfPool(1.0, 2.0, 3.0))
    other = DemandReport("h800", "r2", 9, AskedOfPool(10.0, 20.0, 30.0))
    assert sum_demand([one, other]) == AskedOfPool(11.0, 22.0, 33.0)
