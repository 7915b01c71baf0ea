"""Cost units are those of the model's own arithmetic."""

import pytest

from pipeline.denoising.cost import ForwardCost

Z_IMAGE = ForwardCost(dim=3840, num_layers=30, num_refiner_layers=2)


@pytest.mark.parametrize(
    ("side", "teraflops"), [(512, 12.9), (768, 29.6), (1024, 55.6), (1536, 147), (2048, 319)]
)
def test_a_forward_has_the_published_number_of_operations(side: int, teraflops: float) -> None:
    assert Z_IMAGE.flops((side // 16) ** 2, 64) / 1e12 == pytest.approx(teraflops, rel=0.01)


@pytest.mark.parametrize(
    ("side", "units"), [(512, 1), (768, 2.3), (1024, 4.3), (1536, 11.4), (2048, 24.7)]
)
def test_units_grow_faster_than_tokens(side: int, units: float) -> None:
    assert Z_IMAGE.units((side // 16) ** 2, 64) == pytest.approx(units, rel=0.01)
