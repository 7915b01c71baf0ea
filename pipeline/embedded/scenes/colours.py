"""Colours as the eye measures them: distances in CIELAB, and which can be told apart."""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.embedded.scenes.vocabulary import PALETTE, Colour

_MIN_DISTANCE: Final = 28.0
"""CIE76 below which two colours of one picture are not kept apart."""

_RGB_TO_XYZ: Final = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)
_WHITE: Final = np.array([0.9505, 1.0, 1.089])


def to_lab(rgb: NDArray[np.uint8] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert [..., 3] sRGB of 0 to 255 into CIELAB under D65 (IEC 61966-2-1, CIE 15)."""
    encoded = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _RGB_TO_XYZ.T / _WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lightness = 116 * f[..., 1] - 16
    return np.stack(
        [lightness, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1
    )


PALETTE_LAB: Final = to_lab(np.array([PALETTE[colour] for colour in Colour], dtype=np.float64))
"""[10, 3], in the order of `Colour`."""


@cache
def are_distinct(first: Colour, second: Colour) -> bool:
    """Say whether stripes of the two can be told apart."""
    distance = np.linalg.norm(_lab(PALETTE[first]) - _lab(PALETTE[second]))
    return bool(distance >= _MIN_DISTANCE)


@cache
def are_distinct_from_gradient(colour: Colour, top: Colour, bottom: Colour) -> bool:
    """Say whether a thing of `colour` stands out everywhere on a gradient."""
    weights = np.linspace(0, 1, 33)[:, None]
    mixed = (1 - weights) * np.array(PALETTE[top]) + weights * np.array(PALETTE[bottom])
    distance = np.linalg.norm(to_lab(mixed) - _lab(PALETTE[colour]), axis=-1)
    return bool(distance.min() >= _MIN_DISTANCE)


def _lab(rgb: tuple[int, int, int]) -> NDArray[np.float64]:
    return to_lab(np.array(rgb, dtype=np.float64))
