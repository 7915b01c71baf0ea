"""Cut a picture into its background and one mask a colour of thing."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.embedded.evaluation.backgrounds import ReadBackground
from pipeline.embedded.evaluation.colours import Lab, Mask, find_nearest
from pipeline.embedded.scenes.colours import PALETTE_LAB
from pipeline.embedded.scenes.vocabulary import Colour

_COLOURS: Final = tuple(Colour)
_MAX_DISTANCE: Final = 32.0
"""CIELAB beyond which a pixel is no colour of the palette."""

_BACKGROUND_DISTANCE: Final = 16.0
_MIN_DEPTH: Final = 0.007
"""How far inside a thing its core lies, in shorter sides: edges, which blend two colours and may
look like a third, have no core."""

_MIN_CORE: Final = 0.0007
"""Core that makes a thing, in squares of the shorter side."""

_MIN_PART: Final = 0.005
"""Components below this share of a mask are specks."""


@dataclass(frozen=True)
class Segment:
    """Everything of one colour that is not background."""

    colour: Colour
    mask: Mask
    """[H, W]."""


def find_segments(lab: Lab, read: ReadBackground) -> list[Segment]:
    """Find the colours that things have, then give each pixel to the nearest of them."""
    found = _thing_colours(lab, read)
    if not found:
        return []
    behind = _distance_to_background(lab, read)
    palette = PALETTE_LAB[found].astype(np.float32)
    distances = np.linalg.norm(lab[:, :, None] - palette, axis=-1)
    nearest = distances.argmin(axis=-1)
    is_thing = distances.min(axis=-1) < behind
    return [
        Segment(_COLOURS[label], _drop_specks(is_thing & (nearest == i)))
        for i, label in enumerate(found)
    ]


def _thing_colours(lab: Lab, read: ReadBackground) -> list[int]:
    nearest = find_nearest(lab)
    in_front = _distance_to_background(lab, read) > _BACKGROUND_DISTANCE
    in_front &= nearest.distances < _MAX_DISTANCE
    side = min(lab.shape[:2])
    behind = () if read.background is None else read.background.colours
    return [
        label
        for label, colour in enumerate(_COLOURS)
        if colour not in behind
        and _core_area(in_front & (nearest.labels == label), side) >= _MIN_CORE * side**2
    ]


def _distance_to_background(lab: Lab, read: ReadBackground) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = np.linalg.norm(lab - read.candidates, axis=-1).min(axis=0)
    return distances


def _core_area(mask: Mask, side: int) -> int:
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return int((depth > max(1.2, _MIN_DEPTH * side)).sum())


def _drop_specks(mask: Mask) -> Mask:
    """Keep the components that have a core, and are no speck beside the rest."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    side = min(mask.shape)
    kept = [
        label
        for label in range(1, len(areas))
        if areas[label] >= _MIN_PART * mask.sum() and _core_area(labels == label, side) > 0
    ]
    return np.isin(labels, kept)
