import pytest

from cluster.accelerators import Precision
from cluster.memory import denoiser_peak_gib, max_denoiser_pixels, vae_decoder_peak_gib
from cluster.profiles import CONSUMER_16GB


@pytest.mark.parametrize(("side", "measured_gib"), [(512, 11.89), (1024, 12.24), (2048, 13.64)])
def test_a_denoiser_peaks_where_it_was_measured(side: int, measured_gib: float) -> None:
    assert denoiser_peak_gib(side * side, Precision.BF16) == pytest.approx(measured_gib, abs=0.1)


@pytest.mark.parametrize(("side", "measured_gib"), [(512, 0.8), (1024, 2.6), (2048, 9.7)])
def test_a_vae_decoder_peaks_where_it_was_measured(side: int, measured_gib: float) -> None:
    assert vae_decoder_peak_gib(side * side) == pytest.approx(measured_gib, abs=0.15)


def test_the_largest_forward_fits_and_a_larger_one_does_not() -> None:
    bound = CONSUMER_16GB.memory_gib
    most = max_denoiser_pixels(bound, Precision.BF16)
    assert denoiser_peak_gib(most, Precision.BF16) <= bound
    assert denoiser_peak_gib(most + 1024, Precision.BF16) > bound


def test_float32_weights_leave_a_16_gb_card_no_pixel() -> None:
    assert max_denoiser_pixels(CONSUMER_16GB.memory_gib, Precision.FP32) == 0
