"""Which combinations are kept out of training, decided by a hash: no list, no seed.

A fact is what a picture claims: a thing on its background, or two things and how they stand to
each other. Converse facts (a left of b, b right of a) are one.
"""

import zlib
from typing import Final

from pipeline.embedded.scenes.scene import Scene, Thing
from pipeline.embedded.scenes.vocabulary import CONVERSE, Relation

_ONE_IN: Final = 12


def facts(scene: Scene) -> list[str]:
    """Return every fact of a scene; words are facts by themselves."""
    if scene.links:
        claims = [
            _link(scene.things[link.first], link.relation, scene.things[link.second])
            for link in scene.links
        ]
    else:
        claims = [f"{_name(scene.things[0])} on {' '.join(scene.background.colours)}"]
    return claims + [thing.kind for thing in scene.things if thing.is_word]


def is_held_out(scene: Scene) -> bool:
    """Say whether any fact of the scene is kept out of training."""
    return any(zlib.crc32(fact.encode()) % _ONE_IN == 0 for fact in facts(scene))


def _link(first: Thing, relation: Relation, second: Thing) -> str:
    if relation in (Relation.RIGHT_OF, Relation.BELOW):
        first, relation, second = second, CONVERSE[relation], first
    return f"{_name(first)} {relation} {_name(second)}"


def _name(thing: Thing) -> str:
    return f"{thing.colour} {thing.kind}"
