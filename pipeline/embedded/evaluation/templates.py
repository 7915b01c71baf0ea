"""Recognise an outline by laying each template over it."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.embedded.evaluation.colours import Mask
from pipeline.embedded.scenes.atlas import ATLAS_EXTENT, TEXTURE_SIDE, build_atlas
from pipeline.embedded.scenes.vocabulary import KINDS, Shape

_MIN_OVERLAP: Final = 0.55
_PADDING: Final = 2
_NUM_SHAPES: Final = len(Shape)


@dataclass(frozen=True)
class Box:
    """The smallest upright rectangle around a mask, in pixels; ends are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top


@dataclass(frozen=True)
class Match:
    """The best template of an outline."""

    kind: str | None
    """None if no template covers the outline well."""
    radius: float
    """Of the thing, in pixels."""
    overlap: float
    """Intersection over union with the template."""


@dataclass(frozen=True)
class _Template:
    kind: str
    distance: NDArray[np.float32]
    left: float
    top: float
    width: float
    height: float
    """Box of the ink, in texels."""


def bound(mask: Mask) -> Box:
    """Return the box around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def match_outline(mask: Mask, ignored: Mask, *, only_glyphs: bool) -> Match:
    """Find the template that overlaps the mask most.

    Args:
        mask: [H, W], not empty.
        ignored: [H, W], pixels that belong to other things and prove nothing.
        only_glyphs: Leave the eight shapes out.
    """
    box = bound(mask)
    window = (
        slice(max(0, box.top - _PADDING), box.bottom + _PADDING),
        slice(max(0, box.left - _PADDING), box.right + _PADDING),
    )
    ink, counted = mask[window], ~ignored[window]
    origin = (window[1].start, window[0].start)
    templates = _templates()[_NUM_SHAPES:] if only_glyphs else _templates()
    overlaps = [_overlap(template, box, origin, ink, counted) for template in templates]
    best = int(np.argmax(overlaps))
    scale = _scale(templates[best], box)
    radius = scale * TEXTURE_SIDE / (2 * ATLAS_EXTENT)
    is_known = overlaps[best] >= _MIN_OVERLAP
    return Match(templates[best].kind if is_known else None, radius, overlaps[best])


def _overlap(
    template: _Template, box: Box, origin: tuple[int, int], ink: Mask, counted: Mask
) -> float:
    """Return the intersection over union, the template laid centre on centre at equal area."""
    scale = _scale(template, box)
    centre_x = (box.left + box.right) / 2 - origin[0]
    centre_y = (box.top + box.bottom) / 2 - origin[1]
    matrix = np.array(
        [
            [scale, 0, centre_x - scale * (template.left + template.width / 2) - 0.5],
            [0, scale, centre_y - scale * (template.top + template.height / 2) - 0.5],
        ]
    )
    size = (ink.shape[1], ink.shape[0])
    laid = cv2.warpAffine(template.distance, matrix, size, borderValue=1.0) < 0
    union = ((laid | ink) & counted).sum()
    return float((laid & ink & counted).sum() / union) if union else 0.0


def _scale(template: _Template, box: Box) -> float:
    """Return pixels a texel."""
    ratio = (box.width * box.height) / (template.width * template.height)
    return float(np.sqrt(ratio))


@cache
def _templates() -> tuple[_Template, ...]:
    templates = []
    for kind, distance in zip(KINDS, build_atlas(), strict=True):
        box = bound(distance < 0)
        templates.append(_Template(kind, distance, box.left, box.top, box.width, box.height))
    return tuple(templates)
