"""Which canvas takes which steps, and which settings are refused."""

from typing import Any

import pytest

from pipeline.errors import InvalidRequestError
from pipeline.request import ImageSize
from pipeline.schedule import build_schedule
from pipeline.tiled_passes import TilingOptions, choose_start_step, plan_passes


@pytest.mark.parametrize(
    ("start_sigma", "step"), [(1.0, 0), (0.955, 1), (0.8, 3), (0.643, 5), (0.5, 6)]
)
def test_tiles_take_over_at_one_of_the_requests_own_sigmas(start_sigma: float, step: int) -> None:
    assert choose_start_step(build_schedule(8), start_sigma) == step


@pytest.mark.parametrize("num_inference_steps", [1, 2, 3, 4, 28, 50])
def test_tiles_never_take_over_below_a_sigma_of_one_half(num_inference_steps: int) -> None:
    schedule = build_schedule(num_inference_steps)

    assert schedule.sigmas[choose_start_step(schedule, 0.5)] >= 0.5


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (TilingOptions(), [range(6), range(6, 8)]),
        (TilingOptions(start_sigma=0.833), [range(3), range(3, 8)]),
        (TilingOptions(base_steps=8), [range(8), range(6, 8)]),
        (TilingOptions(base_steps=50), [range(8), range(6, 8)]),
        (TilingOptions(start_sigma=1), [range(8)]),
    ],
)
def test_the_steps_of_each_pass(options: TilingOptions, steps: list[range]) -> None:
    passes = plan_passes(ImageSize(1024, 1024), build_schedule(8), options)

    assert [one.steps for one in passes] == steps


def test_a_picture_too_narrow_for_a_base_is_refused() -> None:
    options = TilingOptions(base_max_pixels=1024)

    with pytest.raises(InvalidRequestError, match="size must have a base of at most 1024 pixels"):
        plan_passes(ImageSize(16, 2048), build_schedule(8), options)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"start_sigma": 0.3}, r"start_sigma must be in \[0.5, 1\], got 0.3"),
        ({"base_steps": 0}, "base_steps must be at least 1, got 0"),
        ({"base_max_pixels": 2**21}, "base_max_pixels must be in"),
        ({"tile_size": 97}, "tile_size must be positive and divide by 8"),
        ({"overlap": 96}, r"overlap must be in \[0, 96\)"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TilingOptions(**setting)
