"""Draw scenes at random, in fixed proportions, from a `random.Random`."""

import random
from collections.abc import Sequence
from typing import Final

from pipeline.embedded.scenes.colours import are_distinct, are_distinct_from_gradient
from pipeline.embedded.scenes.scene import Arrangement, Background, Scene, Thing
from pipeline.embedded.scenes.vocabulary import (
    GAP,
    GLYPHS,
    HOLLOW_SHAPES,
    MARGIN,
    Backdrop,
    Colour,
    Relation,
    Shape,
    Size,
)

_ROOM: Final = 1 - 2 * MARGIN
_WORDS: Final = (
    *("CAT", "DOG", "SUN", "SKY", "RED", "OPEN", "STOP", "EXIT", "LOVE", "HOME", "TAXI", "CAFE"),
    *("MOON", "STAR", "FISH", "BIRD", "GO", "UP", "HI", "OK", "NO", "YES", "BOOK", "TREE"),
    *("KING", "ZERO", "JAZZ", "QUIZ", "WAVE", "XRAY", "早安", "中国", "早安中国"),
    *("2024", "2025", "42", "007", "100", "365", "A1", "B52"),
)
_ALPHABETS: Final = ("0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "早安中国", GLYPHS)
_SIDES: Final = (Relation.LEFT_OF, Relation.RIGHT_OF, Relation.ABOVE, Relation.BELOW)
_COLOURS: Final = tuple(Colour)
_SHAPES: Final = tuple(Shape)
_SIZES: Final = tuple(Size)


def sample_scene(rng: random.Random) -> Scene:
    """Draw one scene that fits the shortest canvas, a square."""
    while True:
        things, arrangement, relations = _sample_foreground(rng)
        if not _fits(things, arrangement, relations):
            continue
        background = _sample_background(rng, {thing.colour for thing in things})
        if background is not None:
            return Scene(things, arrangement, relations, background)


_Foreground = tuple[tuple[Thing, ...], Arrangement, tuple[Relation, ...]]


def _sample_foreground(rng: random.Random) -> _Foreground:
    draw = rng.random()
    if draw < 0.10:
        return (_shape(rng, _colours(rng, 1)[0]),), Arrangement.SINGLE, ()
    if draw < 0.17:
        return (_glyph(rng, _colours(rng, 1)[0]),), Arrangement.SINGLE, ()
    if draw < 0.33:
        return (_word(rng, _colours(rng, 1)[0]),), Arrangement.SINGLE, ()
    if draw < 0.45:
        return _word_and_shape(rng)
    if draw < 0.70:
        first, second = (_thing(rng, colour) for colour in _colours(rng, 2))
        return (first, second), Arrangement.PAIR, (rng.choice(_SIDES),)
    if draw < 0.80:
        return _nest(rng, _colours(rng, 2)), Arrangement.NESTED, ()
    return _three(rng)


def _word_and_shape(rng: random.Random) -> _Foreground:
    colours = _colours(rng, 2)
    things = (_word(rng, colours[0]), _shape(rng, colours[1]))
    relation = rng.choice((Relation.ABOVE, Relation.BELOW))
    return things if rng.random() < 0.5 else things[::-1], Arrangement.PAIR, (relation,)


def _three(rng: random.Random) -> _Foreground:
    colours = _colours(rng, 3)
    draw = rng.random()
    if draw < 0.3:
        nested = (*_nest(rng, colours), _thing(rng, colours[2]))
        return nested, Arrangement.NESTED_BESIDE, (rng.choice(_SIDES),)
    things = tuple(_thing(rng, colour) for colour in colours)
    if draw < 0.6:
        return things, Arrangement.LINE, (rng.choice((Relation.LEFT_OF, Relation.ABOVE)),)
    along = rng.choice((Relation.LEFT_OF, Relation.ABOVE))
    across = rng.choice(_SIDES[2:] if along is Relation.LEFT_OF else _SIDES[:2])
    return things, Arrangement.CORNER, (along, across)


def _colours(rng: random.Random, count: int) -> list[Colour]:
    return rng.sample(_COLOURS, count)


def _shape(rng: random.Random, colour: Colour) -> Thing:
    return Thing(rng.choice(_SHAPES), colour, rng.choice(_SIZES))


def _glyph(rng: random.Random, colour: Colour) -> Thing:
    alphabet = rng.choice(_ALPHABETS)
    return Thing(rng.choice(alphabet), colour, rng.choice(_SIZES))


def _thing(rng: random.Random, colour: Colour) -> Thing:
    return _glyph(rng, colour) if rng.random() < 0.15 else _shape(rng, colour)


def _word(rng: random.Random, colour: Colour) -> Thing:
    if rng.random() < 0.1:
        return Thing(rng.choice(_WORDS), colour, Size.MEDIUM)
    length = rng.choice((2, 3, 4, 4))
    alphabet = rng.choice(_ALPHABETS)
    return Thing("".join(rng.choices(alphabet, k=length)), colour, Size.MEDIUM)


def _nest(rng: random.Random, colours: Sequence[Colour]) -> tuple[Thing, Thing]:
    inner = _thing(rng, colours[0])
    outer = Thing(rng.choice(HOLLOW_SHAPES), colours[1], Size.LARGE)
    return Thing(inner.kind, inner.colour, Size.SMALL), outer


def _sample_background(rng: random.Random, taken: set[Colour]) -> Background | None:
    free = [colour for colour in _COLOURS if colour not in taken]
    draw = rng.random()
    if draw < 0.55:
        return Background(Backdrop.PLAIN, (rng.choice(free),))
    first, second = rng.sample(free, 2)
    if draw < 0.85:
        backdrop = Backdrop.STRIPED if draw < 0.70 else Backdrop.CHECKED
        return Background(backdrop, (first, second)) if are_distinct(first, second) else None
    if not all(are_distinct_from_gradient(colour, first, second) for colour in taken):
        return None
    return Background(Backdrop.GRADIENT, (first, second))


def _fits(
    things: tuple[Thing, ...], arrangement: Arrangement, relations: tuple[Relation, ...]
) -> bool:
    radii = [thing.radius for thing in things]
    match arrangement:
        case Arrangement.SINGLE | Arrangement.NESTED:
            return True
        case Arrangement.PAIR | Arrangement.LINE:
            return _extent(radii) <= _ROOM
        case Arrangement.NESTED_BESIDE:
            return _extent(radii[1:]) <= _ROOM
        case Arrangement.CORNER:
            return _extent(radii[:2]) <= _ROOM and _extent([max(radii[:2]), radii[2]]) <= _ROOM


def _extent(radii: Sequence[float]) -> float:
    return 2 * sum(radii) + GAP * (len(radii) - 1)
