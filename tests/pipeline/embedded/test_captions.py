import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embedded.evaluation.captions import held_out_captions
from pipeline.embedded.scenes import chinese
from pipeline.embedded.scenes.captions import Language, write_caption
from pipeline.embedded.scenes.sampling import sample_scene
from pipeline.embedded.scenes.split import is_held_out

SEEDS = st.integers(0, 2**32)


@given(SEEDS)
def test_an_english_caption_names_every_colour_and_text(seed: int) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    caption = write_caption(scene, Language.ENGLISH, rng)
    assert all(thing.colour in caption.lower() for thing in scene.things)
    assert all(f'"{thing.kind}"' in caption for thing in scene.things if not thing.is_shape)


@given(SEEDS)
def test_a_chinese_caption_names_every_colour_and_text(seed: int) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    caption = write_caption(scene, Language.CHINESE, rng)
    assert all(chinese.COLOURS[thing.colour] in caption for thing in scene.things)
    assert all(thing.kind in caption for thing in scene.things if not thing.is_shape)


def test_fillers_make_a_caption_longer() -> None:
    scene = sample_scene(random.Random(0))
    short, long = (
        write_caption(scene, Language.ENGLISH, random.Random(0), num_fillers=count)
        for count in (0, 6)
    )
    assert len(long) > len(short) + 60


def test_a_scene_has_many_captions() -> None:
    rng = random.Random(0)
    scene = sample_scene(rng)
    assert len({write_caption(scene, Language.CHINESE, rng) for _ in range(50)}) > 20


def test_held_out_captions_are_held_out() -> None:
    assert all(is_held_out(caption.scene) for caption in held_out_captions(100, seed=0))


def test_half_of_the_held_out_captions_are_chinese() -> None:
    captions = held_out_captions(100, seed=0)
    assert sum(caption.language is Language.CHINESE for caption in captions) == 50


def test_held_out_captions_are_a_function_of_the_seed() -> None:
    assert held_out_captions(20, seed=3) == held_out_captions(20, seed=3)


@pytest.mark.parametrize("language", list(Language))
def test_one_language_can_be_asked_for(language: Language) -> None:
    captions = held_out_captions(6, seed=0, languages=[language])
    assert {caption.language for caption in captions} == {language}
