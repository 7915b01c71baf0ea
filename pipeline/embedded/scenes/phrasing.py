"""What the captions of both languages share: which facts are said, and in which order."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from pipeline.embedded.scenes.scene import Arrangement, Background, Scene, Thing
from pipeline.embedded.scenes.vocabulary import (
    CONVERSE,
    Backdrop,
    Colour,
    Relation,
    Size,
)

_SAYS_DEFAULT_SIZE: Final = 0.25
_LEAVES_OUT_BACKGROUND: Final = 0.7
"""How often a background is left out where it is the default."""


class Phrasebook(ABC):
    """Words captions in one language, drawing among synonyms and templates."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def caption(self, scene: Scene, num_fillers: int) -> str:
        """Write one caption."""
        text = self._subject(scene)
        if not (is_default_background(scene) and self._rng.random() < _LEAVES_OUT_BACKGROUND):
            text = self._place(text, self._background(scene.background))
        fillers = "".join(self._rng.sample(self._fillers(), num_fillers))
        return self._finish(text + fillers)

    def _subject(self, scene: Scene) -> str:
        nested = scene.arrangement in (Arrangement.NESTED, Arrangement.NESTED_BESIDE)
        names = [
            self._thing(thing, self._said_size(thing, nested and i < 2))
            for i, thing in enumerate(scene.things)
        ]
        relations = scene.relations
        match scene.arrangement:
            case Arrangement.SINGLE:
                return names[0]
            case Arrangement.PAIR:
                return self._pair_either_way(names[0], relations[0], names[1])
            case Arrangement.NESTED:
                return self._nested(names[0], names[1])
            case Arrangement.LINE:
                return self._line(names, relations[0])
            case Arrangement.CORNER:
                pair = self._pair_either_way(names[0], relations[0], names[1])
                return self._corner(pair, names[2], relations[1])
            case Arrangement.NESTED_BESIDE:
                return self._nested_beside(names[0], names[1], relations[0], names[2])

    def _said_size(self, thing: Thing, is_nested: bool) -> Size | None:
        if thing.is_word:
            return None
        is_default = is_nested or thing.size is Size.MEDIUM
        return None if is_default and self._rng.random() > _SAYS_DEFAULT_SIZE else thing.size

    def _pair_either_way(self, first: str, relation: Relation, second: str) -> str:
        if self._rng.random() < 0.5:
            return self._pair(first, relation, second)
        return self._pair(second, CONVERSE[relation], first)

    def _pick(self, options: Sequence[str]) -> str:
        return self._rng.choice(options)

    @abstractmethod
    def _thing(self, thing: Thing, size: Size | None) -> str: ...

    @abstractmethod
    def _pair(self, first: str, relation: Relation, second: str) -> str: ...

    @abstractmethod
    def _nested(self, inner: str, outer: str) -> str: ...

    @abstractmethod
    def _line(self, names: Sequence[str], relation: Relation) -> str: ...

    @abstractmethod
    def _corner(self, pair: str, third: str, relation: Relation) -> str: ...

    @abstractmethod
    def _nested_beside(self, inner: str, outer: str, relation: Relation, third: str) -> str: ...

    @abstractmethod
    def _background(self, background: Background) -> str: ...

    @abstractmethod
    def _place(self, subject: str, background: str) -> str: ...

    @abstractmethod
    def _fillers(self) -> tuple[str, ...]: ...

    @abstractmethod
    def _finish(self, text: str) -> str: ...


def is_default_background(scene: Scene) -> bool:
    """Say whether a caption may leave the background out."""
    white_thing = any(thing.colour is Colour.WHITE for thing in scene.things)
    default = Colour.BLACK if white_thing else Colour.WHITE
    return scene.background == Background(Backdrop.PLAIN, (default,))
