"""What tiling costs in quality: the embedded model at 512x512, whole and out of tiles of 256.

    python tests/benchmarks/tiled_quality.py --count 24 --seconds 500
    python tests/benchmarks/tiled_quality.py --model FOLDER --count 100 --sigmas 0.75 0.643

Held-out captions are drawn in every way from the same seed and read back by image analysis. The
borders are those of the blended tiles, in every way: the gradient there is set against the full
picture's at the same rows and columns (`vs full`), where things may lie otherwise, and against that
8 to 24 pixels beside them in the same picture (`beside`), which a seam raises. The positions
`compressed` are `true` below 2048 px, so they have no row.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import numpy as np

from pipeline.embedded.evaluation.captions import HeldOutCaption, held_out_captions
from pipeline.embedded.evaluation.reading import read_scene
from pipeline.embedded.evaluation.scoring import PictureScore, score, share_right
from pipeline.request import ImageSize
from pipeline.tiled_passes import TilingOptions
from pipeline.tiling import TilePositions
from pipeline.weights import EMBEDDED
from tests.benchmarks.tiled_ways import (
    BLENDED,
    NAIVE,
    WHOLE,
    Drawing,
    Pixels,
    WayDrawer,
    borders_of,
    excess_at_borders,
    plan_of,
    with_base,
)

SIZE = ImageSize(512, 512)


@dataclass
class Tally:
    """What one way has come to."""

    scores: list[PictureScore] = field(default_factory=list)
    are_counts_right: list[bool] = field(default_factory=list)
    at_borders: list[float] = field(default_factory=list)
    beside_borders: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, caption: HeldOutCaption, pixels: Pixels) -> None:
        """Read one picture."""
        read = read_scene(pixels)
        self.scores.append(score(caption.scene, read, side=min(pixels.shape[:2])))
        self.are_counts_right.append(len(read.things) == len(caption.scene.things))
        at, beside = excess_at_borders(pixels, borders_of(plan_of(SIZE, BLENDED)))
        self.at_borders.append(at)
        self.beside_borders.append(beside)


def main() -> None:
    arguments = parse_arguments()
    ends_at = time.monotonic() + arguments.seconds
    ways = plan_ways(arguments)
    tallies = {name: Tally() for name in ways}
    drawer = WayDrawer(arguments.model)
    for index, caption in enumerate(held_out_captions(arguments.count, seed=arguments.seed)):
        if time.monotonic() > ends_at:
            break
        drawing = Drawing(drawer.text_encoder.encode(caption.prompt), SIZE, seed=index)
        for name, options in ways.items():
            started_at = time.monotonic()
            pixels = drawer.draw(drawing, options)
            tallies[name].seconds += time.monotonic() - started_at
            tallies[name].add(caption, pixels)
    print_table(tallies)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=EMBEDDED, help="a folder (default: the embedded model)")
    parser.add_argument("--count", type=int, default=24, help="captions")
    parser.add_argument("--seed", type=int, default=0, help="chooses the captions")
    parser.add_argument("--seconds", type=float, default=600.0, help="no caption is begun later")
    parser.add_argument(
        "--sigmas", type=float, nargs="+", default=[0.955, 0.9, 0.833, 0.75, 0.643, 0.5]
    )
    parser.add_argument("--base-steps", type=int, nargs="+", default=[0], help="0: those above")
    parser.add_argument("--ways", nargs="+", help="names, or parts of names; all if not given")
    return parser.parse_args()


def plan_ways(arguments: argparse.Namespace) -> dict[str, TilingOptions]:
    ways = {"full": WHOLE, "naive tiles": NAIVE, "blended": BLENDED}
    for positions, sigma, steps in product(
        (TilePositions.TRUE, TilePositions.LOCAL), arguments.sigmas, arguments.base_steps
    ):
        name = f"base {sigma:5.3f} {positions} {steps or ''}".rstrip()
        ways[name] = with_base(sigma, positions, steps or None)
    wanted = ["full", *arguments.ways] if arguments.ways else [""]
    return {name: way for name, way in ways.items() if any(part in name for part in wanted)}


def print_table(tallies: dict[str, Tally]) -> None:
    full = tallies["full"]
    print(f"{'':18} number right  all right  colours  shapes  border vs full beside  s a picture")
    for name, tally in tallies.items():
        right = share_right(tally.scores)
        print(
            f"{name:18} {np.mean(tally.are_counts_right):11.1%} {right['everything']:10.1%} "
            f"{right['colours']:8.1%} {right['shapes']:7.1%} "
            f"{np.mean(tally.at_borders) / np.mean(full.at_borders):13.2f} "
            f"{np.mean(tally.at_borders) / np.mean(tally.beside_borders):6.2f} "
            f"{tally.seconds / len(tally.scores):10.1f}"
        )
    print(f"{len(full.scores)} captions at {SIZE}")


if __name__ == "__main__":
    main()
