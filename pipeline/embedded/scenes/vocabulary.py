"""The words of the embedded model's domain: what a scene may hold, before any language.

Lengths are fractions of the canvas's shorter side.
"""

from enum import StrEnum
from typing import Final


class Colour(StrEnum):
    """What a thing or a background is painted in."""

    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    CYAN = "cyan"
    BLUE = "blue"
    PURPLE = "purple"
    PINK = "pink"
    WHITE = "white"
    BLACK = "black"


class Shape(StrEnum):
    """The outline of a thing that is no text."""

    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    STAR = "star"
    RING = "ring"
    CROSS = "cross"
    HEART = "heart"
    CRESCENT = "crescent"


class Size(StrEnum):
    """How large a thing is."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Backdrop(StrEnum):
    """How a background is painted."""

    PLAIN = "plain"
    STRIPED = "striped"
    CHECKED = "checked"
    GRADIENT = "gradient"


class Relation(StrEnum):
    """Where one thing is, seen from another."""

    LEFT_OF = "left_of"
    RIGHT_OF = "right_of"
    ABOVE = "above"
    BELOW = "below"
    INSIDE = "inside"


CONVERSE: Final = {
    Relation.LEFT_OF: Relation.RIGHT_OF,
    Relation.RIGHT_OF: Relation.LEFT_OF,
    Relation.ABOVE: Relation.BELOW,
    Relation.BELOW: Relation.ABOVE,
}
"""A r B is the same as B CONVERSE[r] A. INSIDE has none that the captions use."""

GLYPHS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ早安中国"
KINDS: Final = (*(shape.value for shape in Shape), *GLYPHS)
"""Everything with an outline, in the order of the atlas."""

RADII: Final = {Size.SMALL: 0.10, Size.MEDIUM: 0.15, Size.LARGE: 0.22}
WORD_RADII: Final = {2: 0.14, 3: 0.125, 4: 0.11}
"""Half the height of a word's glyphs, by how many there are."""

GLYPH_PITCH: Final = 0.98
"""Distance between the centres of neighbouring glyphs, in glyph heights."""

MARGIN: Final = 0.04
GAP: Final = 0.04
HOLLOW_SHAPES: Final = (Shape.CIRCLE, Shape.SQUARE, Shape.HEART, Shape.RING)
"""Shapes roomy enough for a small thing inside."""

PALETTE: Final[dict[Colour, tuple[int, int, int]]] = {
    Colour.RED: (220, 35, 35),
    Colour.ORANGE: (250, 135, 20),
    Colour.YELLOW: (250, 225, 50),
    Colour.GREEN: (40, 150, 60),
    Colour.CYAN: (60, 205, 215),
    Colour.BLUE: (35, 75, 205),
    Colour.PURPLE: (125, 50, 175),
    Colour.PINK: (250, 150, 195),
    Colour.WHITE: (250, 250, 250),
    Colour.BLACK: (20, 20, 20),
}
"""sRGB, 0 to 255."""
