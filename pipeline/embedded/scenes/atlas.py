"""One texture of signed distances a kind: shapes by formula, glyphs from `glyphs.png`."""

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.embedded.scenes.shapes import signed_distance
from pipeline.embedded.scenes.vocabulary import GLYPHS, KINDS, Shape

GLYPH_ATLAS: Final = Path(__file__).with_name("glyphs.png")
TEXTURE_SIDE: Final = 112
ATLAS_EXTENT: Final = 1.3
"""A texture covers [-extent, extent] radii on both axes."""

MAX_DISTANCE: Final = 0.3
"""Distances are clipped here, in radii."""


@cache
def build_atlas() -> NDArray[np.float32]:
    """Return [kinds, side, side] signed distances in radii, in the order of `KINDS`."""
    centres = (np.arange(TEXTURE_SIDE) + 0.5) / TEXTURE_SIDE * 2 - 1
    x, y = np.meshgrid(centres * ATLAS_EXTENT, centres * ATLAS_EXTENT)
    shapes = [signed_distance(shape, x, y) for shape in Shape]
    with Image.open(GLYPH_ATLAS) as image:
        glyphs = (np.asarray(image, dtype=np.float64) - 127.5) / 127.5 * MAX_DISTANCE
    textures = np.concatenate([np.stack(shapes), glyphs.reshape(len(GLYPHS), *x.shape)])
    atlas: NDArray[np.float32] = textures.clip(-MAX_DISTANCE, MAX_DISTANCE).astype(np.float32)
    return atlas


@cache
def kind_index(kind: str) -> int:
    """Return the place of a kind in the atlas."""
    return KINDS.index(kind)
