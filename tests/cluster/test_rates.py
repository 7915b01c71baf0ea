import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import CapacityError
from cluster.rates import ReplicaRate, guess_rate, typical_rate

FORWARD_UNITS = [1.0, 4.31, 24.7]
OVERHEAD_S = 0.0054
UNIT_S = 0.0149
"""Fitted to one H200 at fp8: 162 ms for 8 forwards at 512, 556 ms at 1024."""


def true_run_s(forward_units: float, slowness: float) -> float:
    return 8 * slowness * (OVERHEAD_S + UNIT_S * forward_units)


def observe_many(rate: ReplicaRate, draws: random.Random, slowness: float, n: int) -> ReplicaRate:
    for index in range(n):
        forward_units = FORWARD_UNITS[index % len(FORWARD_UNITS)]
        run_s = true_run_s(forward_units, slowness) * draws.lognormvariate(0, 0.05)
        rate = rate.observe(8 * forward_units, 8, run_s)
    return rate


@given(st.integers(0, 10_000), st.floats(0.1, 10.0), st.sampled_from(FORWARD_UNITS))
def test_twenty_requests_bring_an_estimate_within_15_percent(
    seed: int, slowness: float, forward_units: float
) -> None:
    draws = random.Random(seed)
    rate = observe_many(guess_rate(62.0), draws, slowness, 20)
    estimate = rate.estimate_s(8 * forward_units, 8)
    assert estimate == pytest.approx(true_run_s(forward_units, slowness), rel=0.15)


@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
def test_twenty_noisy_requests_of_one_size_are_enough(seed: int, slowness: float) -> None:
    draws = random.Random(seed)
    rate = guess_rate(62.0)
    for _ in range(20):
        rate = rate.observe(8.0, 8, true_run_s(1.0, slowness) * draws.lognormvariate(0, 0.1))
    assert rate.estimate_s(8.0, 8) == pytest.approx(true_run_s(1.0, slowness), rel=0.15)


def test_a_replica_that_slows_down_is_believed_after_twenty_requests_of_a_size() -> None:
    draws = random.Random(1)
    settled = observe_many(guess_rate(62.0), draws, 1.0, 100)
    slowed = observe_many(settled, draws, 1.35, 60)
    assert slowed.estimate_s(8.0, 8) == pytest.approx(true_run_s(1.0, 1.35), rel=0.15)


def test_one_wild_report_moves_a_settled_rate_by_less_than_a_quarter() -> None:
    settled = observe_many(guess_rate(62.0), random.Random(3), 1.0, 100)
    before = settled.estimate_s(8.0, 8)
    assert settled.observe(8.0, 8, 3600.0).estimate_s(8.0, 8) == pytest.approx(before, rel=0.25)


def test_the_first_report_replaces_the_guess() -> None:
    assert guess_rate(1.0).observe(100.0, 8, 1.0).estimate_s(100.0, 8) == pytest.approx(1.0)


def test_a_size_never_seen_is_estimated_by_the_overall_rate() -> None:
    rate = guess_rate(1.0).observe(80.0, 8, 2.0)
    assert rate.estimate_s(8.0, 8) == pytest.approx(0.2)


@pytest.mark.parametrize(("units", "n", "run_s"), [(0.0, 1, 1.0), (1.0, 0, 1.0), (1.0, 1, 0.0)])
def test_a_report_of_nothing_is_refused(units: float, n: int, run_s: float) -> None:
    with pytest.raises(CapacityError, match="a report must be positive"):
        guess_rate(1.0).observe(units, n, run_s)


def test_a_typical_replica_lies_in_the_middle_of_its_pool() -> None:
    rates = [guess_rate(1.0).observe(80.0, 8, run_s) for run_s in (1.0, 4.0)]
    assert typical_rate(rates, guess_rate(1.0)).estimate_s(80.0, 8) == pytest.approx(2.0)


def test_a_size_is_typical_of_those_that_have_drawn_it() -> None:
    drew = guess_rate(1.0).observe(8.0, 8, 2.0)
    typical = typical_rate([drew, guess_rate(40.0)], guess_rate(1.0))
    assert typical.estimate_s(8.0, 8) == pytest.approx(2.0)


def test_a_pool_of_none_is_as_fast_as_guessed() -> None:
    assert typical_rate([], guess_rate(40.0)) == guess_rate(40.0)


def test_a_smaller_size_bounds_what_a_larger_one_takes_at_least() -> None:
    rate = guess_rate(1.0).observe(8.0, 8, 2.0)
    assert rate.least_s(200.0, 8) == pytest.approx(2.0, rel=0.3)
    assert rate.least_s(200.0, 8) <= 2.0
    assert rate.least_s(8.0, 8) == pytest.approx(2.0)
    assert rate.least_s(16.0, 16) == pytest.approx(4.0)


def test_a_larger_size_says_nothing_of_a_smaller_one() -> None:
    rate = guess_rate(1.0).observe(200.0, 8, 2.0)
    assert rate.least_s(8.0, 8) == 0.0


def test_a_guess_says_nothing_for_sure() -> None:
    assert guess_rate(1.0).least_s(8.0, 8) == 0.0


@given(st.integers(0, 10_000), st.floats(0.1, 10.0), st.floats(0.3, 100.0))
def test_no_size_takes_less_than_the_smaller_ones_say(
    seed: int, slowness: float, forward_units: float
) -> None:
    rate = observe_many(guess_rate(62.0), random.Random(seed), slowness, 30)
    least_s = rate.least_s(8 * forward_units, 8)
    assert least_s <= 1.25 * true_run_s(forward_units, slowness)
