"""Captions of scenes that training never saw."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.embedded.scenes.captions import Language, write_caption
from pipeline.embedded.scenes.sampling import sample_scene
from pipeline.embedded.scenes.scene import Scene
from pipeline.embedded.scenes.split import is_held_out

BOTH_LANGUAGES: Final = (Language.ENGLISH, Language.CHINESE)


@dataclass(frozen=True)
class HeldOutCaption:
    """A prompt, and what a picture of it must show."""

    prompt: str
    scene: Scene
    language: Language


def held_out_captions(
    count: int, *, seed: int, languages: Sequence[Language] = BOTH_LANGUAGES
) -> list[HeldOutCaption]:
    """Draw captions with at least one fact that was kept out of training, languages in turn."""
    rng = random.Random(f"held out/{seed}")
    captions: list[HeldOutCaption] = []
    while len(captions) < count:
        scene = sample_scene(rng)
        if is_held_out(scene):
            language = languages[len(captions) % len(languages)]
            prompt = write_caption(scene, language, rng)
            captions.append(HeldOutCaption(prompt, scene, language))
    return captions
