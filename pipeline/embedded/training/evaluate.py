"""Measure a model folder on held-out captions, and save what it drew.

`python -m pipeline.embedded.training.evaluate --model FOLDER --out FOLDER`
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.embedded.evaluation.captions import held_out_captions
from pipeline.embedded.evaluation.judging import judge
from pipeline.embedded.evaluation.scoring import PictureScore, share_right
from pipeline.embedded.scenes.captions import Language
from pipeline.embedded.training.generation import BatchGenerator, load_generator
from pipeline.request import ImageSize

Pixels = NDArray[np.uint8]


def evaluate(
    generator: BatchGenerator,
    pool: Pool,
    *,
    count: int,
    seed: int,
    size: ImageSize,
    num_inference_steps: int = 8,
) -> tuple[dict[str, dict[str, float]], list[Pixels], list[PictureScore]]:
    """Draw and read `count` held-out captions; return shares in all and by language."""
    captions = held_out_captions(count, seed=seed)
    seeds = [seed * 1_000_000 + place for place in range(count)]
    pictures = generator.generate(
        [caption.prompt for caption in captions],
        seeds,
        size,
        num_inference_steps=num_inference_steps,
    )
    scores = pool.starmap(judge, zip(captions, pictures, strict=True), chunksize=8)
    shares = {"all": share_right(scores)}
    for language in Language:
        shares[language] = share_right(
            s for c, s in zip(captions, scores, strict=True) if c.language is language
        )
    return shares, pictures, scores


def contact_sheet(pictures: Sequence[Pixels], columns: int) -> Image.Image:
    """Lay pictures of one size out in rows."""
    rows = [
        np.concatenate(pictures[start : start + columns], axis=1)
        for start in range(0, len(pictures) - columns + 1, columns)
    ]
    return Image.fromarray(np.concatenate(rows))


Shares = dict[str, dict[str, float]]


def format_table(by_seed: Mapping[int, Shares]) -> str:
    """Lay out the mean over the seeds, each seed, and the mean by language, in per cent."""
    first = next(iter(by_seed.values()))
    lines = [
        f"| | mean | seeds {', '.join(map(str, by_seed))} | English | Chinese |",
        "|---" * 5 + "|",
    ]
    for name in first["all"]:
        seeds = [100 * shares["all"][name] for shares in by_seed.values()]
        languages = [
            100 * sum(shares[language][name] for shares in by_seed.values()) / len(by_seed)
            for language in (Language.ENGLISH, Language.CHINESE)
        ]
        listed = ", ".join(f"{share:.1f}" for share in seeds)
        means = " | ".join(f"{share:.1f}" for share in languages)
        lines.append(f"| {name} | {sum(seeds) / len(seeds):.1f} | {listed} | {means} |")
    return "\n".join(lines)


def main() -> None:
    """Write `evaluation.json` and a contact sheet a size and seed, and print a table a size."""
    arguments = _parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[int, Shares]] = {}
    # Forked before the first use of a GPU, which a fork would not survive.
    with get_context("fork").Pool(arguments.workers) as pool:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        generator = load_generator(arguments.model, device)
        for place, size in enumerate(arguments.sizes):
            name = f"{size.width}x{size.height}"
            results[name] = {}
            for seed in arguments.seeds if place == 0 else arguments.seeds[:1]:
                results[name][seed], pictures, _ = evaluate(
                    generator,
                    pool,
                    count=arguments.count if place == 0 else arguments.other_count,
                    seed=seed,
                    size=size,
                    num_inference_steps=arguments.steps,
                )
                sheet = contact_sheet(pictures[:48], 8)
                sheet.save(arguments.out / f"sheet_{name}_{seed}.png")
                (arguments.out / "evaluation.json").write_text(json.dumps(results, indent=1))
            sys.stdout.write(f"{name}\n{format_table(results[name])}\n")
            sys.stdout.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500, help="captions a seed at the first size")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--sizes", type=_parse_size, nargs="+", default=[ImageSize(256, 256)], help="as 512x256"
    )
    parser.add_argument(
        "--other-count", type=int, default=100, help="captions at each other size, one seed"
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def _parse_size(text: str) -> ImageSize:
    width, height = (int(side) for side in text.split("x"))
    return ImageSize(height, width)


if __name__ == "__main__":
    main()
