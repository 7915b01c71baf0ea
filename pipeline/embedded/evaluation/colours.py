"""Colours of pixels: which of the palette's is nearest, and how far away it is."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.embedded.scenes.colours import PALETTE_LAB

Lab = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Nearest:
    """The nearest palette colour of each pixel."""

    labels: NDArray[np.intp]
    """[H, W], the place in `Colour`."""
    distances: NDArray[np.float32]
    """[H, W], in CIELAB."""


def pixels_to_lab(pixels: NDArray[np.uint8]) -> Lab:
    """Convert [H, W, 3] sRGB bytes into CIELAB."""
    lab: Lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    return lab


def find_nearest(lab: Lab) -> Nearest:
    """Compare each pixel with the ten colours of the palette."""
    distances = np.linalg.norm(lab[:, :, None] - PALETTE_LAB.astype(np.float32), axis=-1)
    labels = distances.argmin(axis=-1)
    return Nearest(labels, np.take_along_axis(distances, labels[..., None], axis=-1)[..., 0])
