"""Draw one prompt a row as naive tiles, blended, with a base pass, full.

python tests/benchmarks/tiled_pictures.py [--out FILE]
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import numpy as np
from PIL import Image

from pipeline.request import ImageSize
from pipeline.tiled_passes import TilingOptions
from pipeline.weights import EMBEDDED
from tests.benchmarks.tiled_ways import BLENDED, NAIVE, WHOLE, Drawing, WayDrawer, with_base

SIZE = ImageSize(512, 512)
GAP = 8
PROMPTS = [
    "a red circle on a blue background",
    "a yellow star above a green square on a white background",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=EMBEDDED, help="a folder (default: the embedded model)")
    parser.add_argument("--out", type=Path, default=Path("tiled.png"))
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    drawer = WayDrawer(arguments.model)
    defaults = TilingOptions()
    ways = [NAIVE, BLENDED, with_base(defaults.start_sigma, defaults.positions), WHOLE]
    rows = []
    for prompt in arguments.prompts:
        drawing = Drawing(drawer.text_encoder.encode(prompt), SIZE, seed=arguments.seed)
        rows.append([drawer.draw(drawing, way) for way in ways])
    lay_out(rows).save(arguments.out, optimize=True)


def lay_out(rows: list[list[np.ndarray]]) -> Image.Image:
    """Put pictures into a grid, at half their size."""
    side = SIZE.width // 2
    width, height = (count * (side + GAP) - GAP for count in (len(rows[0]), len(rows)))
    sheet = Image.new("RGB", (width, height), "white")
    for top, row in enumerate(rows):
        for left, pixels in enumerate(row):
            picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left * (side + GAP), top * (side + GAP)))
    return sheet


if __name__ == "__main__":
    main()
