"""How use decays and when a call fits."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.quotas import QuotaLimits, QuotaUse, charge, decay, refund
from deployments.rate_limit_headers import format_duration, to_rate_limit_headers

LIMITS = QuotaLimits(units_per_minute=60.0, units_per_day=1000.0, max_concurrent_requests=2)


def test_a_call_that_fits_is_charged_to_both_windows() -> None:
    decision = charge(QuotaUse(), LIMITS, 8.0, now_s=0.0)

    assert decision.refused is None
    assert (decision.use.minute_units, decision.use.day_units) == (8.0, 8.0)
    assert decision.use.num_running == 1


def test_a_minute_that_is_used_up_says_when_the_call_will_fit() -> None:
    use = QuotaUse(minute_units=58.0, day_units=58.0)

    decision = charge(use, LIMITS, 8.0, now_s=0.0)

    assert (decision.refused, decision.retry_after_s) == ("minute", 6.0)
    assert charge(decision.use, LIMITS, 8.0, now_s=6.0).refused is None


def test_a_day_that_is_used_up_outlasts_the_minute() -> None:
    decision = charge(QuotaUse(minute_units=60.0, day_units=1000.0), LIMITS, 1.0, now_s=0.0)

    assert decision.refused == "day"
    assert decision.retry_after_s == 86.4


def test_a_full_house_is_refused_and_not_charged() -> None:
    decision = charge(QuotaUse(num_running=2), LIMITS, 1.0, now_s=0.0)

    assert decision.refused == "concurrency"
    assert decision.use.minute_units == 0.0


def test_a_lower_limit_after_a_reload_counts_at_once() -> None:
    decision = charge(QuotaUse(minute_units=50.0), QuotaLimits(10.0), 1.0, now_s=0.0)

    assert decision.refused == "minute"


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.1, 60.0)), max_size=60))
def test_no_minute_lets_through_more_than_twice_the_limit(
    calls: list[tuple[float, float]],
) -> None:
    use, now_s = QuotaUse(), 0.0
    admitted: list[tuple[float, float]] = []
    for wait_s, units in calls:
        now_s += wait_s
        decision = charge(use, QuotaLimits(units_per_minute=60.0), units, now_s)
        use = decision.use
        admitted += [(now_s, units)] if decision.refused is None else []

    starts = [start for start, _ in admitted]
    sums = [sum(units for at_s, units in admitted if 0 <= at_s - s < 60) for s in starts]
    assert max(sums, default=0.0) <= 120.0 + 1e-6


@given(st.floats(0.0, 60.0), st.floats(0.0, 60.0), st.floats(0.0, 200.0))
def test_a_refund_never_makes_use_negative(used: float, given_back: float, wait_s: float) -> None:
    later = decay(QuotaUse(minute_units=used, day_units=used), LIMITS, wait_s)

    assert refund(later, LIMITS, given_back, wait_s).minute_units >= 0.0


def test_what_has_decayed_is_not_given_back() -> None:
    first = charge(QuotaUse(), LIMITS, 30.0, now_s=0.0)
    second = charge(first.use, LIMITS, 30.0, now_s=20.0)

    assert refund(second.use, LIMITS, 30.0, elapsed_s=20.0).minute_units == 30.0
    assert refund(second.use, LIMITS, 30.0, elapsed_s=40.0).minute_units == 40.0


@given(st.floats(0.0, 60.0), st.floats(0.0, 60.0), st.floats(0.0, 60.0), st.floats(0.0, 60.0))
def test_a_refund_leaves_no_less_than_if_the_call_had_never_come(
    units: float, others: float, wait_s: float, rest_s: float
) -> None:
    limits = QuotaLimits(units_per_minute=120.0)
    both = charge(charge(QuotaUse(), limits, units, 0.0).use, limits, others, wait_s)
    alone = charge(QuotaUse(), limits, others, wait_s)
    end_s = wait_s + rest_s

    left = refund(decay(both.use, limits, end_s), limits, units, end_s)

    assert left.minute_units >= decay(alone.use, limits, end_s).minute_units - 1e-6


def test_headers_count_calls_like_this_one_in_the_tighter_window() -> None:
    headers = to_rate_limit_headers(LIMITS, QuotaUse(minute_units=8.0, day_units=984.0), 8.0)

    assert headers["x-ratelimit-limit-requests"] == "125"
    assert headers["x-ratelimit-remaining-requests"] == "2"
    assert headers["x-ratelimit-reset-requests"] == "23h36m58s"
    assert headers["x-ratelimit-remaining-units"] == "16"


def test_a_key_without_bounds_has_no_headers() -> None:
    assert to_rate_limit_headers(QuotaLimits(), QuotaUse(), 8.0) == {}


def test_durations_are_written_as_openai_does() -> None:
    written = [format_duration(seconds) for seconds in (0.0, 0.0115, 1.0, 60.0, 360.0, 3601.2)]

    assert written == ["0ms", "12ms", "1s", "1m0s", "6m0s", "1h0m2s"]
