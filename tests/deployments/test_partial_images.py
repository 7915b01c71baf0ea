"""A preview becomes a file of the picture's size."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.partial_images import encode_partial_image
from pipeline.image_file import OutputFormat
from pipeline.request import ImageSize

_SIZE = ImageSize(height=64, width=96)


@pytest.mark.parametrize("output_format", list(OutputFormat))
def test_a_partial_image_has_the_size_and_format_of_the_picture(
    output_format: OutputFormat,
) -> None:
    preview = torch.zeros(3, 8, 12, dtype=torch.uint8)

    image = Image.open(BytesIO(encode_partial_image(preview, _SIZE, output_format)))

    assert image.size == (96, 64)
    assert image.format == output_format.name


@pytest.mark.parametrize("output_format", list(OutputFormat))
def test_a_partial_image_has_the_colours_of_its_preview_in_their_places(
    output_format: OutputFormat,
) -> None:
    preview = torch.zeros(3, 8, 12, dtype=torch.uint8)
    preview[0, :, :6] = 255
    preview[2, :, 6:] = 255

    pixels = np.asarray(
        Image.open(BytesIO(encode_partial_image(preview, _SIZE, output_format))).convert("RGB")
    ).astype(int)

    assert np.abs(pixels[32, 8] - (255, 0, 0)).max() <= 4
    assert np.abs(pixels[32, 88] - (0, 0, 255)).max() <= 4
