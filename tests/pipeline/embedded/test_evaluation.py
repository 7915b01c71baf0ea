import dataclasses
import random

import numpy as np
import pytest
import torch

from pipeline.embedded.evaluation.reading import ReadScene, read_scene
from pipeline.embedded.evaluation.scoring import score, share_right
from pipeline.embedded.scenes.layout import place
from pipeline.embedded.scenes.rendering import describe, render, to_pixels
from pipeline.embedded.scenes.scene import Arrangement, Background, Scene, Thing
from pipeline.embedded.scenes.vocabulary import Backdrop, Colour, Relation, Shape, Size
from tests.pipeline.embedded.pictures import draw_scenes

RED_CIRCLE = Thing(Shape.CIRCLE, Colour.RED, Size.MEDIUM)
GREEN_STAR = Thing(Shape.STAR, Colour.GREEN, Size.MEDIUM)
BLACK = Background(Backdrop.PLAIN, (Colour.BLACK,))
SCENE = Scene((RED_CIRCLE, GREEN_STAR), Arrangement.PAIR, (Relation.LEFT_OF,), BLACK)


def read_true_picture(scene: Scene) -> ReadScene:
    drawing = describe([scene], [place(scene, 256, 256, random.Random(0))])
    return read_scene(to_pixels(render(drawing, 256, 256, torch.device("cpu")))[0])


@pytest.mark.parametrize(
    ("height", "width", "count"), [(256, 256, 60), (128, 240, 60), (512, 320, 8)]
)
def test_true_pictures_are_read_back_whole(height: int, width: int, count: int) -> None:
    scenes, images = draw_scenes(count, height, width, seed=height)
    side = min(height, width)
    scores = [
        score(scene, read_scene(pixels), side=side)
        for scene, pixels in zip(scenes, to_pixels(images), strict=True)
    ]
    assert share_right(scores)["all_and_text"] == 1.0


def test_swapped_colours_are_right_colours_and_wrong_shapes() -> None:
    swapped = dataclasses.replace(
        SCENE,
        things=(
            dataclasses.replace(RED_CIRCLE, colour=Colour.GREEN),
            dataclasses.replace(GREEN_STAR, colour=Colour.RED),
        ),
    )
    result = score(SCENE, read_true_picture(swapped), side=256)
    assert (result.colours, result.shapes) == (True, False)


def test_the_other_side_is_a_wrong_relation() -> None:
    mirrored = dataclasses.replace(SCENE, relations=(Relation.RIGHT_OF,))
    result = score(SCENE, read_true_picture(mirrored), side=256)
    assert (result.colours, result.shapes, result.relations) == (True, True, False)


def test_a_missing_thing_is_wrong_in_everything() -> None:
    alone = Scene((RED_CIRCLE,), Arrangement.SINGLE, (), BLACK)
    result = score(SCENE, read_true_picture(alone), side=256)
    assert (result.colours, result.shapes, result.relations) == (False, False, False)


def test_a_thing_too_many_is_a_wrong_colour() -> None:
    alone = Scene((RED_CIRCLE,), Arrangement.SINGLE, (), BLACK)
    assert not score(alone, read_true_picture(SCENE), side=256).colours


def test_another_background_colour_is_a_wrong_colour() -> None:
    on_white = dataclasses.replace(SCENE, background=Background(Backdrop.PLAIN, (Colour.WHITE,)))
    assert not score(SCENE, read_true_picture(on_white), side=256).colours


def test_a_misspelt_word_is_no_word() -> None:
    asked = Scene((Thing("CAT", Colour.RED, Size.MEDIUM),), Arrangement.SINGLE, (), BLACK)
    drawn = Scene((Thing("CAR", Colour.RED, Size.MEDIUM),), Arrangement.SINGLE, (), BLACK)
    assert score(asked, read_true_picture(drawn), side=256).word is False


def test_noise_is_read_as_no_scene() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    assert not score(SCENE, read_scene(noise), side=256).everything
