import numpy as np
import pytest

from deployments.routing.decisions import RequestFacts
from deployments.simulator.errors import PlanError
from deployments.simulator.traces import Rate, Trace, burst, diurnal, draw_trace, steady

SMALL = RequestFacts(512, 512, 8)
LARGE = RequestFacts(1024, 1024, 8)


def count(rate: Rate, duration_s: float, begin_s: float, end_s: float) -> int:
    times = draw_trace(rate, duration_s, {SMALL: 1.0}, seed=1).times_s
    return int(((times >= begin_s) & (times < end_s)).sum())


def test_a_steady_rate_brings_its_number_of_requests() -> None:
    assert count(steady(50.0), 200.0, 0.0, 200.0) == pytest.approx(10_000, rel=0.03)


def test_gaps_between_requests_are_exponential() -> None:
    gaps = np.diff(draw_trace(steady(50.0), 400.0, {SMALL: 1.0}, seed=2).times_s)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_a_burst_multiplies_the_rate_for_a_while() -> None:
    rate = burst(100.0, factor=3.0, begin_s=40.0, duration_s=20.0)
    assert count(rate, 100.0, 40.0, 60.0) == pytest.approx(6000, rel=0.05)
    assert count(rate, 100.0, 60.0, 80.0) == pytest.approx(2000, rel=0.07)


def test_a_day_swings_around_its_mean() -> None:
    rate = diurnal(10.0, swing=0.8, period_s=1000.0)
    assert rate(0.0) == pytest.approx(2.0)
    assert rate(500.0) == pytest.approx(18.0)
    assert count(rate, 1000.0, 0.0, 1000.0) == pytest.approx(10_000, rel=0.05)


def test_kinds_come_in_their_proportions() -> None:
    trace = draw_trace(steady(100.0), 100.0, {SMALL: 7.0, LARGE: 3.0}, seed=3)
    assert (trace.kind_of == 1).mean() == pytest.approx(0.3, abs=0.02)


def test_a_seed_gives_the_same_trace() -> None:
    one, other = (draw_trace(steady(9.0), 50.0, {SMALL: 1.0}, seed=4) for _ in range(2))
    assert np.array_equal(one.times_s, other.times_s)


def test_times_that_go_back_are_refused() -> None:
    with pytest.raises(PlanError, match="times of a trace must not go back"):
        Trace(np.array([1.0, 0.5]), np.zeros(2, dtype=np.int32), (SMALL,))


def test_a_kind_is_needed_for_each_time() -> None:
    with pytest.raises(PlanError, match="must have a kind for each time, got 1 for 2"):
        Trace(np.array([1.0, 2.0]), np.zeros(1, dtype=np.int32), (SMALL,))
