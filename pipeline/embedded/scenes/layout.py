"""Choose where the things of a scene stand, in pixels of a canvas of any aspect."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.embedded.scenes.scene import Arrangement, Scene, Thing
from pipeline.embedded.scenes.vocabulary import GAP, GLYPH_PITCH, MARGIN, Relation

_SWAY: Final = 0.10
"""How far a group may stand off the centre, in shorter sides of the canvas."""

_LOOSENESS: Final = 0.5
"""The share of the free room that may go between things."""

_VERTICAL: Final = (Relation.ABOVE, Relation.BELOW)


@dataclass(frozen=True)
class Placement:
    """Centre and radius of a thing, in pixels."""

    x: float
    y: float
    radius: float


def place(scene: Scene, height: int, width: int, rng: random.Random) -> list[Placement]:
    """Place every thing of the scene so that each link holds and nothing leaves the canvas."""
    return _Canvas(height, width, rng).place(scene)


def half_width(thing: Thing) -> float:
    """Return half the width, in shorter sides of the canvas."""
    count = len(thing.kind) if thing.is_word else 1
    return thing.radius * (1 + GLYPH_PITCH * (count - 1))


class _Canvas:
    def __init__(self, height: int, width: int, rng: random.Random) -> None:
        self._side = min(height, width)
        self._rooms = (width / self._side, height / self._side)
        self._rng = rng

    def place(self, scene: Scene) -> list[Placement]:
        things = scene.things
        return [
            Placement(x * self._side, y * self._side, thing.radius * self._side)
            for thing, (x, y) in zip(things, self._centres(scene), strict=True)
        ]

    def _centres(self, scene: Scene) -> list[tuple[float, float]]:
        things = scene.things
        match scene.arrangement:
            case Arrangement.SINGLE:
                return self._row([things[0]], vertical=False)
            case Arrangement.PAIR | Arrangement.LINE:
                return self._ordered(things, scene.relations[0])
            case Arrangement.NESTED:
                return self._row([things[1]], vertical=False) * 2
            case Arrangement.NESTED_BESIDE:
                outer, beside = self._ordered(things[1:], scene.relations[0])
                return [outer, outer, beside]
            case Arrangement.CORNER:
                return self._corner(things, *scene.relations)

    def _ordered(self, things: Sequence[Thing], relation: Relation) -> list[tuple[float, float]]:
        vertical = relation in _VERTICAL
        if relation in (Relation.LEFT_OF, Relation.ABOVE):
            return self._row(things, vertical)
        return self._row(things[::-1], vertical)[::-1]

    def _row(self, things: Sequence[Thing], vertical: bool) -> list[tuple[float, float]]:
        """Spread things along one axis, in the order given, swaying a little on the other."""
        axis = int(vertical)
        along = self._spread([_extents(thing)[axis] for thing in things], self._rooms[axis])
        sway = [_extents(thing)[1 - axis] for thing in things]
        across = [self._spread([half], self._rooms[1 - axis])[0] for half in sway]
        return list(
            zip(across, along, strict=True) if vertical else zip(along, across, strict=True)
        )

    def _spread(self, halves: Sequence[float], room: float) -> list[float]:
        gaps = len(halves) - 1
        free = max(0.0, room - 2 * MARGIN - 2 * sum(halves) - GAP * gaps)
        loose = self._rng.uniform(0, _LOOSENESS * free) if gaps else 0.0
        sway = min((free - loose) / 2, _SWAY)
        start = MARGIN + (free - loose) / 2 + self._rng.uniform(-sway, sway)
        centres = []
        for half in halves:
            centres.append(start + half)
            start += 2 * half + GAP + loose / max(gaps, 1)
        return centres

    def _corner(
        self, things: Sequence[Thing], along: Relation, across: Relation
    ) -> list[tuple[float, float]]:
        """Lay the first two along one axis and the third beside both of them."""
        vertical = along in _VERTICAL
        pair = self._row(things[:2], vertical)
        widest = max(_extents(thing)[1 - vertical] for thing in things[:2])
        halves = [widest, _extents(things[2])[1 - vertical]]
        room = self._rooms[1 - vertical]
        if across in (Relation.ABOVE, Relation.LEFT_OF):
            beside, line = self._spread(halves[::-1], room)
        else:
            line, beside = self._spread(halves, room)
        third = self._spread([_extents(things[2])[vertical]], self._rooms[vertical])[0]
        if vertical:
            return [(line, y) for _, y in pair] + [(beside, third)]
        return [(x, line) for x, _ in pair] + [(third, beside)]


def _extents(thing: Thing) -> tuple[float, float]:
    return half_width(thing), thing.radius
