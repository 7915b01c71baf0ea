"""The fitted model gives back what was measured, and says which sizes a card holds."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidRequestError
from pipeline.memory import (
    DENOISER_BF16,
    DENOISER_FP8,
    VAE_FULL,
    PeakMemoryModel,
    fit_peak_memory,
    largest_size_that_fits,
    require_fit,
)
from pipeline.request import ImageSize
from pipeline.schedule import build_schedule
from pipeline.tiled_passes import TilingOptions, largest_forward, plan_passes

CARD_GIB = 14.75

sizes = st.builds(
    lambda height, width: ImageSize(16 * height, 16 * width),
    st.integers(4, 256),
    st.integers(4, 256),
)


@pytest.mark.parametrize(
    ("model", "pixels", "peak_gib"),
    [
        (DENOISER_BF16, 512, 11.89),
        (DENOISER_BF16, 1024, 12.24),
        (DENOISER_BF16, 2048, 13.64),
        (DENOISER_FP8, 2048, 7.3),
        (VAE_FULL, 512, 0.8),
        (VAE_FULL, 1024, 2.6),
        (VAE_FULL, 2048, 9.7),
    ],
)
def test_the_fits_give_back_the_measured_peaks(
    model: PeakMemoryModel, pixels: int, peak_gib: float
) -> None:
    assert model.peak_gib((pixels // 16) ** 2) == pytest.approx(peak_gib, abs=0.05)


@settings(deadline=None)
@given(
    fixed=st.floats(0.1, 20),
    slope=st.floats(1, 1000),
    tokens=st.sets(st.integers(1, 65536), min_size=2),
)
def test_a_fit_finds_the_model_that_made_the_numbers(
    fixed: float, slope: float, tokens: set[int]
) -> None:
    assume(max(tokens) - min(tokens) > 1000)
    model = PeakMemoryModel(fixed, slope)
    fitted = fit_peak_memory({count: model.peak_gib(count) for count in tokens})

    assert fitted.fixed_gib == pytest.approx(fixed, rel=1e-3, abs=1e-6)
    assert fitted.kib_per_token == pytest.approx(slope, rel=1e-3)


@settings(deadline=None)
@given(size=sizes, budget_gib=st.floats(11.8, 20))
def test_the_largest_size_fits_and_is_no_larger_than_asked(
    size: ImageSize, budget_gib: float
) -> None:
    largest = largest_size_that_fits(size, DENOISER_BF16, budget_gib=budget_gib)
    assume(largest is not None)
    assert largest is not None

    assert DENOISER_BF16.peak_gib(largest.num_image_tokens) <= budget_gib
    assert largest.num_image_tokens <= size.num_image_tokens


@settings(deadline=None)
@given(size=sizes)
def test_a_size_that_fits_stays_as_it_is(size: ImageSize) -> None:
    peak_gib = DENOISER_BF16.peak_gib(size.num_image_tokens)

    assert largest_size_that_fits(size, DENOISER_BF16, budget_gib=peak_gib + 0.01) == size


def test_nothing_fits_where_the_weights_do_not() -> None:
    assert largest_size_that_fits(ImageSize(512, 512), DENOISER_BF16, budget_gib=8) is None


def test_a_size_that_does_not_fit_is_refused_with_the_largest_that_would() -> None:
    message = (
        r"size must fit in 14\.75 GiB, the largest of this shape is 2576x2576, "
        r"got 4096x4096 which takes 19\.24 GiB"
    )

    with pytest.raises(InvalidRequestError, match=message):
        require_fit(ImageSize(4096, 4096), DENOISER_BF16, budget_gib=CARD_GIB)


def test_a_size_that_fits_is_not_refused() -> None:
    require_fit(ImageSize(2048, 2048), DENOISER_BF16, budget_gib=CARD_GIB)


@pytest.mark.parametrize("measured", [{}, {1024: 1.0}])
def test_a_fit_needs_two_sizes(measured: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="peaks must be measured at two sizes at least"):
        fit_peak_memory(measured)


def test_a_peak_that_does_not_grow_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        fit_peak_memory({1024: 2.0, 4096: 1.0})


@pytest.mark.parametrize("pixels", [1024, 2048, 4096])
def test_the_tiled_path_needs_the_same_memory_at_every_size(pixels: int) -> None:
    passes = plan_passes(ImageSize(pixels, pixels), build_schedule(8), TilingOptions())

    assert DENOISER_BF16.peak_gib(largest_forward(passes)) < 12.1
