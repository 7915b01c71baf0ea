"""Compare what was read with what was asked for."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from pipeline.embedded.evaluation.reading import ReadScene, ReadThing
from pipeline.embedded.evaluation.templates import Box
from pipeline.embedded.scenes.scene import Background, Scene, Thing
from pipeline.embedded.scenes.vocabulary import Backdrop, Relation, Shape

_TOLERANCE: Final = 0.02
"""How far boxes may overlap and still be beside each other, in shorter sides of the picture."""

_SHAPE_NAMES: Final = frozenset(shape.value for shape in Shape)


@dataclass(frozen=True)
class PictureScore:
    """What is right in one picture; None where the caption asks for no such thing."""

    colours: bool
    """The things have exactly the colours asked for, and the background has its own."""
    shapes: bool
    """Each thing, found by its colour, is the shape asked for; a text must be text."""
    relations: bool | None
    everything: bool
    """Colours, shapes and relations at once."""
    backdrop: bool
    """The background is plain, striped, checked or a gradient as asked."""
    sizes: bool
    single_glyph: bool | None
    word: bool | None
    """Every glyph of a text of two or three."""
    word_of_four: bool | None
    all_and_text: bool
    """`everything`, and backdrop, sizes and every text."""


def score(asked: Scene, read: ReadScene, *, side: int) -> PictureScore:
    """Score one picture whose shorter side has `side` pixels."""
    by_colour = {thing.colour: thing for thing in read.things}
    found = [by_colour.get(thing.colour) for thing in asked.things]
    pairs = list(zip(asked.things, found, strict=True))
    colours = _are_colours_right(asked, read)
    shapes = all(_is_shape_right(thing, seen) for thing, seen in pairs)
    relations = _are_relations_right(asked, found, side)
    everything = colours and shapes and relations is not False
    backdrop = read.background is not None and (
        read.background.backdrop is asked.background.backdrop
    )
    sizes = all(seen is not None and seen.size is thing.size for thing, seen in pairs)
    texts = {
        length: _are_texts_right(pairs, lengths)
        for length, lengths in (("one", (1,)), ("some", (2, 3)), ("four", (4,)))
    }
    return PictureScore(
        colours=colours,
        shapes=shapes,
        relations=relations,
        everything=everything,
        backdrop=backdrop,
        sizes=sizes,
        single_glyph=texts["one"],
        word=texts["some"],
        word_of_four=texts["four"],
        all_and_text=everything and backdrop and sizes and False not in texts.values(),
    )


def share_right(scores: Iterable[PictureScore]) -> dict[str, float]:
    """Return the share of pictures in which each property is right, of those that have it."""
    scores = list(scores)
    shares = {}
    for field in fields(PictureScore):
        judged = [value for s in scores if (value := getattr(s, field.name)) is not None]
        shares[field.name] = sum(judged) / len(judged) if judged else float("nan")
    return shares


def _are_colours_right(asked: Scene, read: ReadScene) -> bool:
    if read.background is None:
        return False
    wanted = sorted(thing.colour for thing in asked.things)
    seen = sorted(thing.colour for thing in read.things)
    return wanted == seen and _painted(asked.background) == _painted(read.background)


def _painted(background: Background) -> tuple[str, ...]:
    """Return the colours, in order only where the order shows."""
    if background.backdrop is Backdrop.GRADIENT:
        return background.colours
    return tuple(sorted(background.colours))


def _is_shape_right(thing: Thing, seen: ReadThing | None) -> bool:
    if seen is None or seen.kind is None:
        return False
    return seen.kind == thing.kind if thing.is_shape else seen.kind not in _SHAPE_NAMES


def _are_texts_right(
    pairs: list[tuple[Thing, ReadThing | None]], lengths: tuple[int, ...]
) -> bool | None:
    texts = [(t, seen) for t, seen in pairs if not t.is_shape and len(t.kind) in lengths]
    if not texts:
        return None
    return all(seen is not None and seen.kind == thing.kind for thing, seen in texts)


def _are_relations_right(asked: Scene, found: list[ReadThing | None], side: int) -> bool | None:
    if not asked.links:
        return None
    for link in asked.links:
        first, second = found[link.first], found[link.second]
        if first is None or second is None:
            return False
        if not _holds(first.box, link.relation, second.box, _TOLERANCE * side):
            return False
    return True


def _holds(first: Box, relation: Relation, second: Box, tolerance: float) -> bool:
    match relation:
        case Relation.LEFT_OF:
            return first.right <= second.left + tolerance
        case Relation.RIGHT_OF:
            return second.right <= first.left + tolerance
        case Relation.ABOVE:
            return first.bottom <= second.top + tolerance
        case Relation.BELOW:
            return second.bottom <= first.top + tolerance
        case Relation.INSIDE:
            return (
                first.left >= second.left - tolerance
                and first.right <= second.right + tolerance
                and first.top >= second.top - tolerance
                and first.bottom <= second.bottom + tolerance
            )
