"""Describe scenes in words, by templates, in either language, short or long.

What a caption leaves out has a default: a medium size (inside something: small in large), and a
plain white background, or a black one where a thing is white.
"""

import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from pipeline.embedded.scenes import chinese, english
from pipeline.embedded.scenes.phrasing import Phrasebook
from pipeline.embedded.scenes.scene import Scene


class Language(StrEnum):
    """What a caption is written in."""

    ENGLISH = "en"
    CHINESE = "zh"


_PHRASEBOOKS: Final[dict[Language, Callable[[random.Random], Phrasebook]]] = {
    Language.ENGLISH: english.EnglishPhrasebook,
    Language.CHINESE: chinese.ChinesePhrasebook,
}


def write_caption(
    scene: Scene, language: Language, rng: random.Random, *, num_fillers: int = 0
) -> str:
    """Write one of the many captions of a scene, with clauses that say nothing about it."""
    return _PHRASEBOOKS[language](rng).caption(scene, num_fillers)
