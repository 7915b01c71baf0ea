"""Signed distances to the eight shapes, in units of a thing's radius; negative inside.

Polygon and heart after Inigo Quilez, "2D distance functions" (iquilezles.org, MIT).
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.embedded.scenes.vocabulary import Shape

Plane = NDArray[np.float64]

_SQUARE_HALF_SIDE: Final = 0.85
_CROSS_HALF_WIDTH: Final = 0.34
_STAR_INNER_RADIUS: Final = 0.45
_RING_HOLE: Final = 0.68
_HEART_SCALE: Final = 1.72
_CRESCENT_SHIFT: Final = 0.45
_CRESCENT_BITE: Final = 0.85


def signed_distance(shape: Shape, x: Plane, y: Plane) -> Plane:
    """Return the distance of points (x to the right, y down) from the outline of `shape`."""
    return _DISTANCES[shape](x, y)


def _circle(x: Plane, y: Plane) -> Plane:
    return np.hypot(x, y) - 1


def _ring(x: Plane, y: Plane) -> Plane:
    return np.maximum(_circle(x, y), _RING_HOLE - np.hypot(x, y))


def _crescent(x: Plane, y: Plane) -> Plane:
    return np.maximum(_circle(x, y), _CRESCENT_BITE - np.hypot(x - _CRESCENT_SHIFT, y))


def _heart(x: Plane, y: Plane) -> Plane:
    u, v = np.abs(x) / _HEART_SCALE, 0.56 - y / _HEART_SCALE
    lobe = np.hypot(u - 0.25, v - 0.75) - math.sqrt(2) / 4
    ray = np.maximum(u + v, 0) / 2
    tip = np.minimum(np.hypot(u, v - 1), np.hypot(u - ray, v - ray)) * np.sign(u - v)
    return np.where(u + v > 1, lobe, tip) * _HEART_SCALE


def _polygon(corners: list[tuple[float, float]]) -> Callable[[Plane, Plane], Plane]:
    def distance(x: Plane, y: Plane) -> Plane:
        nearest = np.full_like(x, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            ex, ey = bx - ax, by - ay
            along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
            if ey != 0:
                crosses = ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
                inside ^= crosses
        return np.where(inside, -nearest, nearest)

    return distance


def _fan(radii: list[float]) -> list[tuple[float, float]]:
    """Place corners around the centre, the first at the top."""
    turn = 2 * math.pi / len(radii)
    return [(r * math.sin(i * turn), -r * math.cos(i * turn)) for i, r in enumerate(radii)]


_S, _C = _SQUARE_HALF_SIDE, _CROSS_HALF_WIDTH
_DISTANCES: Final[dict[Shape, Callable[[Plane, Plane], Plane]]] = {
    Shape.CIRCLE: _circle,
    Shape.SQUARE: _polygon([(-_S, -_S), (_S, -_S), (_S, _S), (-_S, _S)]),
    Shape.TRIANGLE: _polygon([(0, -0.95), (1, 0.85), (-1, 0.85)]),
    Shape.STAR: _polygon(_fan([1.0, _STAR_INNER_RADIUS] * 5)),
    Shape.RING: _ring,
    Shape.CROSS: _polygon(
        [
            *((-_C, -1.0), (_C, -1.0), (_C, -_C), (1.0, -_C), (1.0, _C), (_C, _C)),
            *((_C, 1.0), (-_C, 1.0), (-_C, _C), (-1.0, _C), (-1.0, -_C), (-_C, -_C)),
        ]
    ),
    Shape.HEART: _heart,
    Shape.CRESCENT: _crescent,
}
