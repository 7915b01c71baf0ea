import random
from datetime import UTC, datetime

import pytest

from deployments.generation import ImagesOrder
from deployments.jobs.estimates import MeasuredEstimate
from pipeline.image_file import OutputFormat
from pipeline.request import ImageSize, Priority

SIDES = (512, 1024, 2048)


def make_order(side: int) -> ImagesOrder:
    return ImagesOrder(
        id="img-1",
        request_id="r",
        accepted=datetime.now(UTC),
        prompt="x",
        num_images=1,
        size=ImageSize(side, side),
        seed=1,
        num_inference_steps=8,
        priority=Priority.INTERACTIVE,
        timeout_s=60.0,
        pinned_path=None,
        output_format=OutputFormat.PNG,
        output_compression=None,
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("seed", range(10))
def test_twenty_pictures_of_mixed_sizes_bring_an_estimate_within_15_percent(
    seed: int, side: int
) -> None:
    draws, estimate = random.Random(seed), MeasuredEstimate()
    for index in range(21):
        order = make_order(SIDES[index % len(SIDES)])
        estimate.observe(order, order.cost_units / 40 * draws.lognormvariate(0, 0.05))

    order = make_order(side)
    assert estimate(order) == pytest.approx(order.cost_units / 40, rel=0.15)
