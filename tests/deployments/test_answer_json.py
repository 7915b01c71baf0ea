"""What is written in parts is the whole."""

import pytest

from deployments.answer_json import write_answer
from deployments.schemas import ImageItem, ImagesResponse, Routing, Timings, Usage


@pytest.mark.parametrize("num_images", [1, 3])
def test_an_answer_is_written_as_its_model_is(num_images: int) -> None:
    answer = ImagesResponse(
        created=1,
        data=[
            ImageItem(b64_json='"data":[]', seed=seed, key=f"images/{seed}.png")
            for seed in range(num_images)
        ],
        model="tiny",
        model_revision="revision",
        path="full_image",
        fingerprint="full_image/cpu",
        size="64x64",
        output_format="png",
        usage=Usage(input_tokens=1, output_tokens=2, total_tokens=3, cost_units=0.016),
        timings=Timings.model_validate(dict.fromkeys(Timings.model_fields, 1.5)),
        routing=Routing(pool="default", reason="only", explanation="“only” pool", estimate_ms=0.1),
    )

    assert write_answer(answer) == answer.model_dump_json(exclude_none=True).encode()
