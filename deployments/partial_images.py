"""A preview as a file of the picture's size and format: seen for a moment, so made cheaply."""

from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image
from torch import Tensor

from pipeline.image_file import OutputFormat
from pipeline.png import encode_png
from pipeline.request import ImageSize

_QUALITY: Final = 80
"""Of JPEG and WebP: a preview has no detail that more would keep."""


def encode_partial_image(preview: Tensor, size: ImageSize, output_format: OutputFormat) -> bytes:
    """Scale [3, h, w] uint8 pixels up to `size` and encode them."""
    small = Image.fromarray(np.ascontiguousarray(preview.permute(1, 2, 0).numpy()))
    image = small.resize((size.width, size.height), Image.Resampling.BICUBIC)
    if output_format is OutputFormat.PNG:
        return encode_png(np.asarray(image), {})
    file = BytesIO()
    # WebP's default method 4 takes three times as long; JPEG has no such option and ignores it.
    image.save(file, output_format.value, quality=_QUALITY, method=0)
    return file.getvalue()
