import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cost import (
    Z_IMAGE,
    count_image_tokens,
    for_transformer,
    full_image_units,
)

SIDES = st.integers(4, 128).map(lambda tokens: 16 * tokens)


@pytest.mark.parametrize(
    ("side", "tflop"), [(512, 12.9), (768, 29.6), (1024, 55.6), (1536, 147), (2048, 319)]
)
def test_a_forward_costs_what_was_profiled_within_two_percent(side: int, tflop: float) -> None:
    assert Z_IMAGE.tflop(count_image_tokens(side, side)) == pytest.approx(tflop, rel=0.02)


@pytest.mark.parametrize(
    ("side", "units"), [(512, 1.0), (768, 2.3), (1024, 4.3), (1536, 11.4), (2048, 24.7)]
)
def test_units_of_a_forward_are_multiples_of_a_512_forward(side: int, units: float) -> None:
    assert full_image_units(side, side, 1) == pytest.approx(units, rel=0.01)


def test_the_cost_grows_with_steps_and_doubles_under_guidance() -> None:
    one = full_image_units(768, 512, 1)
    assert full_image_units(768, 512, 8) == pytest.approx(8 * one)
    assert full_image_units(768, 512, 8, forwards_per_step=2) == pytest.approx(16 * one)


@given(SIDES, SIDES)
def test_a_picture_and_its_transpose_cost_the_same(height: int, width: int) -> None:
    assert full_image_units(height, width, 8) == full_image_units(width, height, 8)


@given(SIDES, SIDES)
def test_a_larger_picture_costs_at_least_as_much(height: int, width: int) -> None:
    assert full_image_units(height + 16, width, 8) >= full_image_units(height, width, 8)


def test_a_shape_alone_gives_the_profiled_cost_of_a_large_forward_within_ten_percent() -> None:
    derived = for_transformer(dim=3840, num_attention_layers=32, num_parameters=6_150_000_000)
    assert derived.tflop(16384) == pytest.approx(319, rel=0.1)
