import random

import pytest

from deployments.other_stages import OtherStages

SIDES = (512, 1024, 2048)


def true_s(side: int) -> float:
    """Return a VAE decode and what does not depend on the size."""
    return 0.05 + 0.03 * side * side / 1024**2


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("seed", range(20))
def test_twenty_noisy_calls_bring_an_estimate_within_15_percent(seed: int, side: int) -> None:
    draws, stages = random.Random(seed), OtherStages()
    for index in range(20):
        drawn = SIDES[index % len(SIDES)]
        stages.observe(drawn * drawn, true_s(drawn) * draws.lognormvariate(0, 0.1))

    assert stages.estimate_s(side * side) == pytest.approx(true_s(side), rel=0.15)


def test_nothing_is_expected_before_anything_was_drawn() -> None:
    assert OtherStages().estimate_s(512 * 512) == 0.0


def test_one_wild_call_moves_a_settled_estimate_by_less_than_a_quarter() -> None:
    stages = OtherStages()
    for _ in range(50):
        stages.observe(512 * 512, 0.1)
    stages.observe(512 * 512, 3600.0)

    assert stages.estimate_s(512 * 512) == pytest.approx(0.1, rel=0.25)
