from dataclasses import replace

import pytest

from cluster.cost import full_image_units
from cluster.rates import guess_rate
from deployments.replica_report import to_rate
from pipeline.denoising.roster import Backlog, ForwardTime
from pipeline.request import ImageSize

SMALL = ImageSize(64, 64)
MEASURED = Backlog(
    waiting_units=0.0,
    running_units=200.0,
    interactive_units=200.0,
    rate_units_s=0.25,
    rate_trust=0.9,
    holds_unknown=False,
    num_held=1,
    warm_sizes=frozenset({SMALL}),
    forward_times={SMALL: ForwardTime(1 / 16, 8, trust=0.8)},
)
GUESS = guess_rate(40.0)


def test_what_was_measured_is_told_with_how_far_it_is_believed() -> None:
    rate = to_rate(MEASURED, GUESS)

    [small] = rate.by_size.values()
    assert (rate.overall.units_per_s, rate.overall.trust) == (0.25, 0.9)
    assert small.units_per_s == pytest.approx(16 * full_image_units(64, 64, 1))
    assert (small.num_reports, small.trust) == (8, 0.8)


def test_small_pictures_say_little_of_how_long_large_ones_take() -> None:
    assert to_rate(replace(MEASURED, holds_unknown=True), GUESS).overall.units_per_s == 40.0


def test_until_something_is_measured_the_rate_is_the_guess() -> None:
    assert to_rate(replace(MEASURED, rate_units_s=None), GUESS) is GUESS
