"""A scene: one to three things, where they stand to each other, and what is behind them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.embedded.scenes.vocabulary import (
    RADII,
    WORD_RADII,
    Backdrop,
    Colour,
    Relation,
    Shape,
    Size,
)

_SHAPE_NAMES: Final = frozenset(shape.value for shape in Shape)


class Arrangement(StrEnum):
    """How the things of a scene are ordered; the index is the thing's place in `Scene.things`."""

    SINGLE = "single"
    """0 alone."""
    PAIR = "pair"
    """0 `relations[0]` 1."""
    NESTED = "nested"
    """0 inside 1."""
    LINE = "line"
    """0 `relations[0]` 1, and 1 `relations[0]` 2."""
    CORNER = "corner"
    """0 `relations[0]` 1, and 2 `relations[1]` both."""
    NESTED_BESIDE = "nested_beside"
    """0 inside 1, and 1 `relations[0]` 2."""


@dataclass(frozen=True)
class Thing:
    """A shape, or a text of one to four glyphs, in one colour."""

    kind: str
    """A `Shape`'s value, or the text."""
    colour: Colour
    size: Size
    """Of a text of two or more glyphs always MEDIUM: its length decides."""

    @property
    def is_shape(self) -> bool:
        """Whether it is one of the eight shapes."""
        return self.kind in _SHAPE_NAMES

    @property
    def is_word(self) -> bool:
        """Whether it is a text of two or more glyphs."""
        return not self.is_shape and len(self.kind) > 1

    @property
    def radius(self) -> float:
        """Half the height, in shorter sides of the canvas."""
        return WORD_RADII[len(self.kind)] if self.is_word else RADII[self.size]


@dataclass(frozen=True)
class Background:
    """What is behind the things."""

    backdrop: Backdrop
    colours: tuple[Colour, ...]
    """One if plain, else two; a gradient runs from the first at the top to the second."""


@dataclass(frozen=True)
class Link:
    """`things[first]` stands in `relation` to `things[second]`."""

    first: int
    relation: Relation
    second: int


@dataclass(frozen=True)
class Scene:
    """What a caption describes. No two colours in it are alike."""

    things: tuple[Thing, ...]
    arrangement: Arrangement
    relations: tuple[Relation, ...]
    background: Background

    @property
    def links(self) -> tuple[Link, ...]:
        """Every relation that must hold in the picture."""
        match self.arrangement:
            case Arrangement.SINGLE:
                return ()
            case Arrangement.PAIR:
                return (Link(0, self.relations[0], 1),)
            case Arrangement.NESTED:
                return (Link(0, Relation.INSIDE, 1),)
            case Arrangement.LINE:
                return (Link(0, self.relations[0], 1), Link(1, self.relations[0], 2))
            case Arrangement.CORNER:
                along, across = self.relations
                return (Link(0, along, 1), Link(2, across, 0), Link(2, across, 1))
            case Arrangement.NESTED_BESIDE:
                return (Link(0, Relation.INSIDE, 1), Link(1, self.relations[0], 2))
