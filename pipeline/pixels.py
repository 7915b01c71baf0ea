"""Decoded images on the CPU: [H, W, 3] uint8."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]


def to_pixels(image: Tensor | Pixels) -> Pixels:
    """Return the image as a C-contiguous array; its memory is shared where it already is one.

    Raises:
        ValueError: If the image is not [H, W, 3] uint8 on the CPU, or has no pixel.
    """
    if isinstance(image, Tensor) and image.device.type != "cpu":
        raise ValueError(f"pixels must be on the CPU, got {image.device}")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8, got {array.dtype}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"pixels must be [H, W, 3], got {list(array.shape)}")
    return np.ascontiguousarray(array)
