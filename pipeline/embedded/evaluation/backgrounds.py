"""Read what is behind the things, from the frame of the picture that no thing reaches."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.embedded.evaluation.colours import Lab, find_nearest
from pipeline.embedded.scenes.colours import PALETTE_LAB, to_lab
from pipeline.embedded.scenes.scene import Background
from pipeline.embedded.scenes.vocabulary import PALETTE, Backdrop, Colour

_FRAME: Final = 0.03
"""Width of the frame, in shorter sides; things keep off the outer 4 %."""

_COLOURS: Final = tuple(Colour)
_UNIFORM: Final = 0.9
"""The share of a strip that one colour must hold to be its colour."""

_MIN_SHARE: Final = 0.15
_MAX_RAMP_ERROR: Final = 9.0
"""CIELAB, mean over the frame."""


@dataclass(frozen=True)
class ReadBackground:
    """What is behind the things, and what each pixel of it would be without them."""

    background: Background | None
    """None if the frame is none of the four backdrops."""
    candidates: NDArray[np.float32]
    """[colours, H or 1, 1, 3]: CIELAB of the background's colours, by row for a gradient."""


def read_background(lab: Lab) -> ReadBackground:
    """Read backdrop and colours from the frame."""
    frame = _Frame(lab)
    gradient = frame.read_gradient()
    if gradient is not None:
        return gradient
    shares = frame.shares()
    first, second = (int(label) for label in np.argsort(-shares)[:2])
    if shares[first] >= _UNIFORM:
        return _flat(Backdrop.PLAIN, (first,))
    if shares[first] + shares[second] < _UNIFORM or shares[second] < _MIN_SHARE:
        return ReadBackground(None, PALETTE_LAB[[first], None, None].astype(np.float32))
    if frame.left_colour() is None:
        return _flat(Backdrop.CHECKED, (first, second))
    return _flat(Backdrop.STRIPED, (first, second))


def _flat(backdrop: Backdrop, labels: tuple[int, ...]) -> ReadBackground:
    colours = tuple(_COLOURS[label] for label in labels)
    candidates = PALETTE_LAB[list(labels), None, None].astype(np.float32)
    return ReadBackground(Background(backdrop, colours), candidates)


class _Frame:
    def __init__(self, lab: Lab) -> None:
        width = max(2, round(_FRAME * min(lab.shape[:2])))
        self._top, self._bottom = lab[:width], lab[-width:]
        self._left, self._right = lab[:, :width], lab[:, -width:]

    def shares(self) -> NDArray[np.float64]:
        """Return the share of the frame that is nearest to each colour of the palette."""
        strips = (self._top, self._bottom, self._left, self._right)
        labels = np.concatenate([find_nearest(strip).labels.ravel() for strip in strips])
        return np.bincount(labels, minlength=len(_COLOURS)) / labels.size

    def left_colour(self) -> int | None:
        return _uniform_label(self._left)

    def read_gradient(self) -> ReadBackground | None:
        """Fit a ramp between the colours of the first and the last row."""
        top, bottom = _uniform_label(self._top), _uniform_label(self._bottom)
        if top is None or bottom is None or top == bottom:
            return None
        rows = np.concatenate([self._left, self._right], axis=1).mean(axis=1)
        ramp = _ramp(_COLOURS[top], _COLOURS[bottom], len(rows))
        if np.linalg.norm(rows - ramp, axis=-1).mean() > _MAX_RAMP_ERROR:
            return None
        background = Background(Backdrop.GRADIENT, (_COLOURS[top], _COLOURS[bottom]))
        return ReadBackground(background, ramp[None, :, None])


def _uniform_label(strip: Lab) -> int | None:
    shares = np.bincount(find_nearest(strip).labels.ravel(), minlength=len(_COLOURS)) / (
        strip.shape[0] * strip.shape[1]
    )
    label = int(shares.argmax())
    return label if shares[label] >= _UNIFORM else None


def _ramp(top: Colour, bottom: Colour, height: int) -> Lab:
    """Return [height, 3]: the CIELAB of a blend that is linear in sRGB."""
    weights = ((np.arange(height) + 0.5) / height)[:, None]
    rgb = (1 - weights) * np.array(PALETTE[top]) + weights * np.array(PALETTE[bottom])
    return to_lab(rgb).astype(np.float32)
