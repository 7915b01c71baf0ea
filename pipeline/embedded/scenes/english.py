"""Captions in English."""

from collections.abc import Sequence
from typing import Final

from pipeline.embedded.scenes.phrasing import Phrasebook
from pipeline.embedded.scenes.scene import Background, Thing
from pipeline.embedded.scenes.vocabulary import Backdrop, Relation, Shape, Size

NOUNS: Final = {
    Shape.CIRCLE: ("circle", "circle", "disc", "round shape"),
    Shape.SQUARE: ("square", "square", "box"),
    Shape.TRIANGLE: ("triangle",),
    Shape.STAR: ("star", "star", "five-pointed star"),
    Shape.RING: ("ring", "ring", "hoop"),
    Shape.CROSS: ("cross", "cross", "plus sign"),
    Shape.HEART: ("heart", "heart", "heart shape"),
    Shape.CRESCENT: ("crescent", "crescent moon", "moon"),
}
SIZES: Final = {
    Size.SMALL: ("small", "small", "little", "tiny"),
    Size.MEDIUM: ("medium", "medium-sized"),
    Size.LARGE: ("large", "large", "big", "huge"),
}
_RELATIONS: Final = {
    Relation.LEFT_OF: ("to the left of", "left of", "on the left of", "on the left side of"),
    Relation.RIGHT_OF: ("to the right of", "right of", "on the right of", "on the right side of"),
    Relation.ABOVE: ("above", "above", "over", "higher than"),
    Relation.BELOW: ("below", "below", "under", "beneath", "underneath"),
}
_SIDES: Final = {
    Relation.LEFT_OF: ("on its left", "to its left"),
    Relation.RIGHT_OF: ("on its right", "to its right"),
    Relation.ABOVE: ("above it", "over it"),
    Relation.BELOW: ("below it", "under it"),
}
_ENDS: Final = {
    Relation.LEFT_OF: (("on the left", "on the right"), ("left", "right"), ("at left", "at right")),
    Relation.RIGHT_OF: (("on the right", "on the left"), ("right", "left")),
    Relation.ABOVE: (("at the top", "at the bottom"), ("on top", "below")),
    Relation.BELOW: (("at the bottom", "at the top"),),
}
_INSIDE: Final = ("inside", "inside", "in", "within", "in the middle of", "in the centre of")
_OPENINGS: Final = (
    *("",) * 12,
    "draw ",
    "please draw ",
    "show me ",
    "a picture of ",
    "an image of ",
    "a drawing of ",
    "a simple illustration of ",
    "generate an image with ",
    "i would like a clean picture that shows ",
    "a flat geometric illustration, simple and precise, showing ",
)
_ENDINGS: Final = (
    *("",) * 12,
    ".",
    ".",
    ", flat design",
    ", simple flat style",
    ", minimal vector art",
    ", clean sharp edges, no shadows, no texture",
    ", high contrast, nothing else in the picture",
)
_FILLERS: Final = (
    ", nothing else in the picture",
    ", with clean and sharp edges",
    ", no shadows and no texture",
    ", simple and minimal",
    ", in a flat vector style",
    ", high quality and high contrast",
    ", every colour pure and even",
    ", easy to recognise at a glance",
    ", drawn with great precision",
    ", like a page of a picture book for children",
)


class EnglishPhrasebook(Phrasebook):
    """Words captions in English, in lower case but for the text that is to be drawn."""

    def _thing(self, thing: Thing, size: Size | None) -> str:
        adjective = f"{self._pick(SIZES[size])} " if size else ""
        if thing.is_shape:
            return _article(f"{adjective}{thing.colour} {self._pick(NOUNS[Shape(thing.kind)])}")
        return self._text(thing, adjective)

    def _text(self, thing: Thing, adjective: str) -> str:
        noun, quoted, colour = self._noun(thing.kind), f'"{thing.kind}"', thing.colour
        return self._pick(
            (
                f"the {adjective}{noun} {quoted} in {colour}",
                f"the {adjective}{colour} {noun} {quoted}",
                _article(f"{adjective}{colour} {noun} {quoted}"),
                _article(f"{adjective}{colour} {quoted}"),
                f"{adjective}{colour} text reading {quoted}",
                f"{adjective}{colour} text {quoted}",
            )
        )

    def _noun(self, text: str) -> str:
        if len(text) > 1:
            return "number" if text.isdecimal() else "word"
        if text.isdecimal():
            return self._pick(("digit", "number"))
        return self._pick(("letter", "letter", "capital letter") if text.isascii() else _CHARACTER)

    def _pair(self, first: str, relation: Relation, second: str) -> str:
        links, sides = self._pick(_RELATIONS[relation]), self._pick(_SIDES[relation])
        end, other_end = self._rng.choice(_ENDS[relation])
        return self._pick(
            (
                f"{first} {links} {second}",
                f"{first} {links} {second}",
                f"{first} is {links} {second}",
                f"{second} with {first} {sides}",
                f"{first} {end} and {second} {other_end}",
                f"{end} {first}, {other_end} {second}",
            )
        )

    def _nested(self, inner: str, outer: str) -> str:
        return self._pick(
            (
                f"{inner} {self._pick(_INSIDE)} {outer}",
                f"{inner} {self._pick(_INSIDE)} {outer}",
                f"{outer} containing {inner}",
                f"{outer} with {inner} inside",
                f"{outer} with {inner} inside it",
            )
        )

    def _line(self, names: Sequence[str], relation: Relation) -> str:
        first, second, third = names
        backwards = relation is Relation.LEFT_OF and self._rng.random() < 0.25
        if backwards:
            return f"from right to left: {third}, {second} and {first}"
        order = "from left to right" if relation is Relation.LEFT_OF else "from top to bottom"
        links = [self._pick(_RELATIONS[relation]) for _ in range(2)]
        return self._pick(
            (
                f"{order}: {first}, {second} and {third}",
                f"{first}, {second} and {third}, {order}",
                f"{first} {links[0]} {second}, which is {links[1]} {third}",
                f"{first} {links[0]} {second} and {second} {links[1]} {third}",
            )
        )

    def _corner(self, pair: str, third: str, relation: Relation) -> str:
        links = self._pick(_RELATIONS[relation])
        return self._pick(
            (
                f"{pair}, and {third} {links} both",
                f"{pair}, with {third} {links} them",
                f"{third} {links} two things: {pair}",
            )
        )

    def _nested_beside(self, inner: str, outer: str, relation: Relation, third: str) -> str:
        links = self._pick(_RELATIONS[relation])
        sides = self._pick(_SIDES_OF_OTHER[relation])
        return self._pick(
            (
                f"{outer} {links} {third}, with {inner} inside the {_bare(outer)}",
                f"{self._nested(inner, outer)}, {links} {third}",
                f"{self._nested(inner, outer)}, and {third} {sides}",
            )
        )

    def _background(self, background: Background) -> str:
        first, last = background.colours[0], background.colours[-1]
        return _article(self._pick(_backdrop_phrases(background.backdrop, first, last)))

    def _place(self, subject: str, background: str) -> str:
        return self._pick(
            (
                f"{subject} on {background}",
                f"{subject} on {background}",
                f"{subject} against {background}",
                f"{subject}, {_bare(background)}",
                f"{subject}, on {background}",
                f"on {background}, {subject}",
                f"{background} with {subject}",
            )
        )

    def _fillers(self) -> tuple[str, ...]:
        return _FILLERS

    def _finish(self, text: str) -> str:
        sentence = self._pick(_OPENINGS) + text + self._pick(_ENDINGS)
        return sentence[0].upper() + sentence[1:] if self._rng.random() < 0.3 else sentence


_CHARACTER: Final = ("character", "chinese character")
_SIDES_OF_OTHER: Final = {
    Relation.LEFT_OF: ("to the right of them", "on the right"),
    Relation.RIGHT_OF: ("to the left of them", "on the left"),
    Relation.ABOVE: ("below them", "at the bottom"),
    Relation.BELOW: ("above them", "at the top"),
}
"""Where a third thing is when the nest stands in that relation to it."""


def _article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _bare(phrase: str) -> str:
    article, _, rest = phrase.partition(" ")
    return rest if article in ("a", "an") else phrase


def _backdrop_phrases(backdrop: Backdrop, first: str, last: str) -> tuple[str, ...]:
    match backdrop:
        case Backdrop.PLAIN:
            return (*(f"{first} background",) * 3, f"plain {first} background")
        case Backdrop.STRIPED:
            return (
                f"{first} and {last} striped background",
                f"striped background of {first} and {last}",
                f"background with {first} and {last} stripes",
            )
        case Backdrop.CHECKED:
            return (
                f"{first} and {last} checked background",
                f"{first} and {last} checkerboard background",
                f"checkerboard background of {first} and {last}",
            )
        case Backdrop.GRADIENT:
            return (
                f"gradient background from {first} to {last}",
                f"background fading from {first} at the top to {last} at the bottom",
                f"{first} to {last} gradient background",
            )
