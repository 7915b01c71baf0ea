"""What a pool is taken to be before any of its replicas has reported."""

import pytest

from cluster.cost import Z_IMAGE
from deployments.config import PoolConfig
from deployments.pools import guess_speed
from deployments.served_model import ServedModel
from pipeline.request import ImageSize

MODEL = ServedModel("m", "r1", ImageSize(1024, 1024), 8192, 8192, Z_IMAGE)


def guess(profile: str, precision: str) -> float:
    pool = PoolConfig.model_validate({"profile": profile, "step_loop": {"precision": precision}})
    return guess_speed(pool, MODEL).overall.units_per_s


@pytest.mark.parametrize("precision", ["float8", "int8"])
def test_eight_bits_are_taken_to_be_faster_and_eight_bit_weights_alone_are_not(
    precision: str,
) -> None:
    assert guess("h800", precision) == pytest.approx(1.42 * guess("h800", "auto"), rel=0.01)
    assert guess("h800", "int8_weights") == guess("h800", "auto")
