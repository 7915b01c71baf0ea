import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embedded.scenes.layout import Placement, half_width, place
from pipeline.embedded.scenes.sampling import sample_scene
from pipeline.embedded.scenes.scene import Arrangement, Background, Link, Scene, Thing
from pipeline.embedded.scenes.split import facts, is_held_out
from pipeline.embedded.scenes.vocabulary import GLYPHS, Backdrop, Colour, Relation, Shape, Size

SEEDS = st.integers(0, 2**32)
SIDES = st.integers(8, 32).map(lambda patches: patches * 16)

RED_CIRCLE = Thing(Shape.CIRCLE, Colour.RED, Size.MEDIUM)
BLUE_STAR = Thing(Shape.STAR, Colour.BLUE, Size.MEDIUM)
WHITE = Background(Backdrop.PLAIN, (Colour.WHITE,))


def pair(first: Thing, relation: Relation, second: Thing) -> Scene:
    return Scene((first, second), Arrangement.PAIR, (relation,), WHITE)


@given(SEEDS)
def test_no_colour_of_a_scene_appears_twice(seed: int) -> None:
    scene = sample_scene(random.Random(seed))
    colours = [thing.colour for thing in scene.things] + list(scene.background.colours)
    assert len(set(colours)) == len(colours)


@given(SEEDS)
def test_a_text_has_one_to_four_known_glyphs(seed: int) -> None:
    texts = [t.kind for t in sample_scene(random.Random(seed)).things if not t.is_shape]
    assert all(1 <= len(text) <= 4 and set(text) <= set(GLYPHS) for text in texts)


@given(SEEDS, SIDES, SIDES)
def test_nothing_leaves_the_canvas(seed: int, height: int, width: int) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    side = min(height, width)
    placed = zip(scene.things, place(scene, height, width, rng), strict=True)
    assert all(
        half_width(thing) * side <= at.x <= width - half_width(thing) * side
        and at.radius <= at.y <= height - at.radius
        for thing, at in placed
    )


def holds(scene: Scene, placed: list[Placement], link: Link) -> bool:
    first, second = placed[link.first], placed[link.second]
    side = first.radius / scene.things[link.first].radius
    reach_x = side * (half_width(scene.things[link.first]) + half_width(scene.things[link.second]))
    reach_y = first.radius + second.radius
    return {
        Relation.LEFT_OF: second.x - first.x >= reach_x,
        Relation.RIGHT_OF: first.x - second.x >= reach_x,
        Relation.ABOVE: second.y - first.y >= reach_y,
        Relation.BELOW: first.y - second.y >= reach_y,
        Relation.INSIDE: (first.x, first.y) == (second.x, second.y),
    }[link.relation]


@given(SEEDS, SIDES, SIDES)
def test_every_relation_of_a_scene_holds_where_it_is_placed(
    seed: int, height: int, width: int
) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    placed = place(scene, height, width, rng)
    assert all(holds(scene, placed, link) for link in scene.links)


@given(SEEDS)
def test_glyphs_are_at_least_48_pixels_high_at_256(seed: int) -> None:
    texts = [t for t in sample_scene(random.Random(seed)).things if not t.is_shape]
    # A glyph's ink reaches 0.96 radii from its centre.
    assert all(2 * 0.96 * text.radius * 256 >= 48 for text in texts)


def test_converse_relations_are_one_fact() -> None:
    assert facts(pair(RED_CIRCLE, Relation.LEFT_OF, BLUE_STAR)) == facts(
        pair(BLUE_STAR, Relation.RIGHT_OF, RED_CIRCLE)
    )


def test_a_fact_names_colours_shapes_and_relation() -> None:
    assert facts(pair(RED_CIRCLE, Relation.ABOVE, BLUE_STAR)) == ["red circle above blue star"]


@pytest.mark.parametrize("seed", range(3))
def test_between_a_twentieth_and_a_fifth_of_scenes_is_held_out(seed: int) -> None:
    rng = random.Random(seed)
    held = sum(is_held_out(sample_scene(rng)) for _ in range(1000))
    assert 50 <= held <= 200
