"""Peak and time of the tiled path on one GPU, capped like a 16 GB card. Random weights.

    python tests/benchmarks/tiled_gpu.py --seconds 200 --out tiled.jsonl
    python tests/benchmarks/tiled_gpu.py --stages denoiser --precision float8
    python tests/benchmarks/tiled_gpu.py --stages vae --sizes 1024 2048 --dtype float32 --cap-gib 0
    python tests/benchmarks/tiled_gpu.py --tiny --device cpu --dtype float32

Every case has a process of its own under the cap; a case that runs out of it says so. Each row is
printed and added to `--out` when it is done, so a run that is cut off keeps what it has.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from pipeline.acceleration.options import AUTO
from pipeline.memory import fit_peak_memory
from tests.benchmarks.tiled_cases import DENOISER_WAYS, NUM_STEPS, VAE_WAYS, Case, measure

SIZES = [1024, 2048, 3072, 4096]
TINY_SIZES = [256, 384]
WAYS = {"denoiser": DENOISER_WAYS, "vae": VAE_WAYS}
LARGE_STEPS = 2
"""Steps that are timed of a full picture above 2048 px, which takes up to a minute."""


def main() -> None:
    arguments = parse_arguments()
    ends_at = time.monotonic() + arguments.seconds
    rows: list[dict[str, Any]] = []
    for case in plan_cases(arguments):
        left_s = ends_at - time.monotonic()
        row = {"name": case.name, "stage": case.stage, "pixels": case.pixels, "way": case.way}
        row |= run_apart(case, left_s) if left_s > 5 else {"outcome": "no time left"}
        rows.append(row)
        print(describe(row, rows), flush=True)
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    print_fits(rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stages", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--ways", nargs="+", help="of those of the stage; all if not given")
    parser.add_argument("--sizes", type=int, nargs="+", default=None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cap-gib", type=float, default=14.75, help="0 is no cap")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all cases together")
    parser.add_argument("--out", type=Path, default=Path("tiled.jsonl"))
    parser.add_argument("--executor", choices=["loop", "stock"], default="loop")
    parser.add_argument("--precision", default=AUTO, help="of the denoiser's blocks")
    parser.add_argument("--tiny", action="store_true", help="tiny models, 256 and 384 px")
    arguments = parser.parse_args()
    arguments.sizes = arguments.sizes or (TINY_SIZES if arguments.tiny else SIZES)
    return arguments


def plan_cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Small pictures first, so that a short run has whole rows."""
    first = Case(
        stage="",
        pixels=0,
        way="",
        device=arguments.device,
        dtype=arguments.dtype,
        cap_gib=arguments.cap_gib,
        is_tiny=arguments.tiny,
        executor=arguments.executor,
    )
    for pixels in arguments.sizes:
        for stage in arguments.stages:
            for way in WAYS[stage]:
                if arguments.ways and way not in arguments.ways:
                    continue
                yield replace(
                    first,
                    stage=stage,
                    pixels=pixels,
                    way=way,
                    num_timed_steps=LARGE_STEPS if pixels > 2048 else NUM_STEPS,
                    precision=arguments.precision if stage == "denoiser" else AUTO,
                )


def run_apart(case: Case, timeout_s: float) -> dict[str, Any]:
    """Measure in a process of its own: a fork could not use a GPU that this one has touched."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=send_measured, args=(case, there))
    process.start()
    there.close()
    try:
        outcome: dict[str, Any] = {"outcome": "cut off: no time left"}
        if here.poll(timeout_s):
            outcome = here.recv()
    except EOFError:
        process.join()
        outcome = {"outcome": f"failed with exit status {process.exitcode}"}
    finally:
        process.kill()
        process.join()
    return outcome


def send_measured(case: Case, there: Connection) -> None:
    there.send(measure(case))


def describe(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    if "ms" not in row:
        return f"{row['name']:34} {row['outcome']}"
    figures = [f"{row['name']:34} {row['ms']:9.0f} ms"]
    if "peak_gib" in row:
        figures.append(f"peak {row['peak_gib']:5.2f} GiB, reserved {row['reserved_gib']:5.2f}")
        figures.append(f"pinned {row['pinned_gib']:5.2f}")
    if "tflop" in row:
        figures.append(f"{row['tflop']:6.0f} TFLOP, {row['tiles']} tiles, {row['timed_steps']}")
        figures.append(compare_with_full(row, rows))
    if "psnr_db" in row:
        figures.append(f"PSNR {row['psnr_db']:5.1f} dB, border {row['border_gradient']:.4f}")
    return "  ".join(figures)


def compare_with_full(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """How long the row takes, against its TFLOP at the full picture's rate."""
    full = [one for one in rows if one["pixels"] == row["pixels"] and one["way"] == "full"
            and one["stage"] == row["stage"] and "ms" in one]  # fmt: skip
    if not full or row["way"] == "full":
        return ""
    predicted_ms = full[0]["ms"] * row["tflop"] / full[0]["tflop"]
    return f"{row['ms'] / predicted_ms:.2f} of predicted, {row['ms'] - full[0]['ms']:+.0f} ms"


def print_fits(rows: list[dict[str, Any]]) -> None:
    """Print the model of peak memory that each series gives."""
    for stage, way in dict.fromkeys((row["stage"], row["way"]) for row in rows):
        peaks = {
            (row["pixels"] // 16) ** 2: row["peak_gib"]
            for row in rows
            if (row["stage"], row["way"]) == (stage, way) and "peak_gib" in row
        }
        if len(peaks) > 1 and peaks[max(peaks)] > peaks[min(peaks)]:
            print(f"{stage} {way}: {fit_peak_memory(peaks)}")


if __name__ == "__main__":
    main()
