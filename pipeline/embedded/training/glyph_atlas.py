"""Make `scenes/glyphs.png` from two openly licensed fonts.

`python -m pipeline.embedded.training.glyph_atlas LATIN.ttf CHINESE.ttc`; the shipped file is from
DejaVu Sans Mono Bold (Bitstream Vera licence) and Noto Sans CJK SC Bold (SIL OFL 1.1).
"""

import argparse
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.embedded.scenes.atlas import (
    ATLAS_EXTENT,
    GLYPH_ATLAS,
    MAX_DISTANCE,
    TEXTURE_SIDE,
)
from pipeline.embedded.scenes.vocabulary import GLYPHS

_DRAWN_SIDE: Final = TEXTURE_SIDE * 10
_REACH: Final = 0.96
"""How far the farthest edge of a glyph is from the centre, in radii."""

_SIMPLIFIED_CHINESE: Final = 2
"""Index of Noto Sans CJK SC in the font collection."""


def draw_glyph(glyph: str, font: ImageFont.FreeTypeFont) -> NDArray[np.uint8]:
    """Draw one glyph's signed distance, quantised, centred by its own box."""
    side = _DRAWN_SIDE
    left, top, right, bottom = font.getbbox(glyph)
    canvas = Image.new("L", (side, side))
    at = (side / 2 - (left + right) / 2, side / 2 - (top + bottom) / 2)
    ImageDraw.Draw(canvas).text(at, glyph, fill=255, font=font)
    ink = (np.asarray(canvas) > 127).astype(np.uint8)
    outside = cv2.distanceTransform(1 - ink, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside = cv2.distanceTransform(ink, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = (outside - inside) * (2 * ATLAS_EXTENT / side)
    small = cv2.resize(distance, (TEXTURE_SIDE,) * 2, interpolation=cv2.INTER_AREA)
    scaled = np.clip(small / MAX_DISTANCE, -1, 1) * 127.5 + 127.5
    texture: NDArray[np.uint8] = np.round(scaled).astype(np.uint8)
    return texture


def fit_font(path: Path, sample: str, index: int) -> ImageFont.FreeTypeFont:
    """Return the font at the size where `sample` just reaches `_REACH`."""
    probe = ImageFont.truetype(str(path), 1000, index=index)
    boxes = [probe.getbbox(glyph) for glyph in sample]
    extent = max(max(right - left, bottom - top) for left, top, right, bottom in boxes)
    reach = 2 * _REACH * _DRAWN_SIDE / (2 * ATLAS_EXTENT)
    return ImageFont.truetype(str(path), 1000 * reach / extent, index=index)


def main() -> None:
    """Write the atlas, glyphs stacked downwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("latin", type=Path)
    parser.add_argument("chinese", type=Path)
    arguments = parser.parse_args()
    latin = [glyph for glyph in GLYPHS if glyph.isascii()]
    chinese = [glyph for glyph in GLYPHS if not glyph.isascii()]
    fonts = dict.fromkeys(latin, fit_font(arguments.latin, "H", 0))
    for glyph in chinese:
        fonts[glyph] = fit_font(arguments.chinese, glyph, _SIMPLIFIED_CHINESE)
    textures = [draw_glyph(glyph, fonts[glyph]) for glyph in GLYPHS]
    Image.fromarray(np.concatenate(textures)).save(GLYPH_ATLAS, optimize=True)


if __name__ == "__main__":
    main()
