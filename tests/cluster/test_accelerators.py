import pytest

from cluster.accelerators import ACCELERATORS, Precision, RateSource, get_accelerator
from cluster.cost import full_image_units
from cluster.errors import CapacityError


@pytest.mark.parametrize(
    ("side", "precision", "measured_ms"),
    [(512, "bf16", 204), (1024, "bf16", 789), (512, "fp8", 162), (1024, "fp8", 556)],
)
def test_an_h200_denoises_within_a_quarter_of_the_measured_speed_at_first_guess(
    side: int, precision: str, measured_ms: float
) -> None:
    rate = get_accelerator("H200").units_per_s(Precision(precision))
    estimate_ms = 1000 * full_image_units(side, side, 8) / rate
    assert estimate_ms == pytest.approx(measured_ms, rel=0.25)


def test_only_the_h200_claims_to_be_measured() -> None:
    measured = {a.name for a in ACCELERATORS.values() if a.source is RateSource.MEASURED}
    assert measured == {"H200"}


def test_an_ampere_card_has_no_fp8() -> None:
    with pytest.raises(CapacityError, match="precision fp8 needs fp8 tensor cores, got GeForce"):
        get_accelerator("GeForce-RTX-3090").units_per_s(Precision.FP8)


def test_an_unknown_accelerator_is_named() -> None:
    with pytest.raises(CapacityError, match="got 'H900'"):
        get_accelerator("H900")
