"""A forward's time is split by cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.denoising.forward_report import ForwardReport
from pipeline.request import ImageSize


def build_report(units: list[float], seconds: float) -> ForwardReport:
    ids = tuple(f"request-{index}" for index in range(len(units)))
    return ForwardReport(ids, tuple(units), (ImageSize(64, 64),) * len(units), seconds)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=16), st.floats(0.001, 60))
def test_the_shares_sum_to_the_whole(units: list[float], seconds: float) -> None:
    assert sum(build_report(units, seconds).shares_s()) == pytest.approx(seconds)


def test_three_times_the_cost_is_three_times_the_share() -> None:
    assert build_report([1.0, 3.0], 4.0).shares_s() == pytest.approx((1.0, 3.0))
