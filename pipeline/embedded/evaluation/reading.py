"""Read a picture back into a scene, by classical image analysis: no network, no caption."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.embedded.evaluation.backgrounds import read_background
from pipeline.embedded.evaluation.colours import Mask, pixels_to_lab
from pipeline.embedded.evaluation.segmentation import Segment, find_segments
from pipeline.embedded.evaluation.templates import Box, Match, bound, match_outline
from pipeline.embedded.scenes.scene import Background
from pipeline.embedded.scenes.vocabulary import RADII, Colour, Size

_BLEED: Final = 0.012
"""How far the edge of a thing blurs into its neighbour, in shorter sides."""

_UNREADABLE: Final = "?"


@dataclass(frozen=True)
class ReadThing:
    """One thing as it was read."""

    kind: str | None
    """A shape, or a text, unreadable glyphs as `?`; None if it is neither."""
    colour: Colour
    size: Size
    box: Box


@dataclass(frozen=True)
class ReadScene:
    """A picture as it was read."""

    things: tuple[ReadThing, ...]
    background: Background | None


def read_scene(pixels: NDArray[np.uint8]) -> ReadScene:
    """Read [H, W, 3] sRGB bytes."""
    lab = pixels_to_lab(pixels)
    behind = read_background(lab)
    segments = [segment for segment in find_segments(lab, behind) if segment.mask.any()]
    return ReadScene(
        tuple(_read_thing(segment, segments) for segment in segments), behind.background
    )


def _read_thing(segment: Segment, segments: list[Segment]) -> ReadThing:
    side = min(segment.mask.shape)
    held = [other.mask for other in segments if _holds(segment, other)]
    ignored = _grow(np.any(held, axis=0), side) if held else np.zeros_like(segment.mask)
    ignored &= ~segment.mask
    parts = _split_columns(segment.mask)
    matches = [match_outline(part, ignored, only_glyphs=len(parts) > 1) for part in parts]
    return ReadThing(
        _name(matches),
        segment.colour,
        _nearest_size(matches, side),
        bound(segment.mask),
    )


def _holds(outer: Segment, inner: Segment) -> bool:
    """Say whether `inner` lies wholly in the box of `outer`, and so may cover part of it."""
    if outer is inner:
        return False
    box, inside = bound(outer.mask), bound(inner.mask)
    return (
        box.left <= inside.left
        and box.top <= inside.top
        and box.right >= inside.right
        and box.bottom >= inside.bottom
    )


def _name(matches: list[Match]) -> str | None:
    if len(matches) == 1:
        return matches[0].kind
    return "".join(match.kind or _UNREADABLE for match in matches)


def _nearest_size(matches: list[Match], side: int) -> Size:
    if len(matches) > 1:
        return Size.MEDIUM
    radius = matches[0].radius / side
    return min(RADII, key=lambda size: abs(np.log(RADII[size] / radius)))


def _split_columns(mask: Mask) -> list[Mask]:
    """Split a mask where columns are empty, from left to right."""
    filled = mask.any(axis=0)
    edges = np.flatnonzero(np.diff(filled.astype(np.int8), prepend=0, append=0))
    parts = []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        part = np.zeros_like(mask)
        part[:, start:stop] = mask[:, start:stop]
        parts.append(part)
    return parts


def _grow(mask: Mask, side: int) -> Mask:
    reach = 2 * max(1, round(_BLEED * side)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    grown: Mask = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    return grown
