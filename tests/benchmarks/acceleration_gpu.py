"""The denoiser's ways to compute at the true size, on random weights: speed, difference, memory.

    python tests/benchmarks/acceleration_gpu.py [--sizes 512 1024]

Every way draws the same pictures through a step loop of its own, each in forwards of its own from
512x512 up (which only the fused blocks record); differences are relative, of the
latents after eight steps and of one velocity, to those of the model's own modules in bfloat16.
"""

import argparse
import gc
import sys
import traceback
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[2])]

from pipeline.acceleration.attention import build_attention
from pipeline.acceleration.options import Acceleration, BlockKernels, Precision
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.transformer import PackedTransformer, SharingLimits
from tests.benchmarks.step_loop_gpu import Bench, difference, run_together, say

EXACT_LAYERS = ("*.attention.to_out", "*.feed_forward.to_gate")
WAYS = {
    "modules": Acceleration(BlockKernels.MODULES, Precision.BFLOAT16),
    "fused bfloat16": Acceleration(BlockKernels.FUSED, Precision.BFLOAT16),
    "fused float8": Acceleration(BlockKernels.FUSED, Precision.FLOAT8),
    "fused float8, two products exact": Acceleration(
        BlockKernels.FUSED, Precision.FLOAT8, EXACT_LAYERS
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    options = parser.parse_args()
    bench = Bench(is_tiny=False)
    bench.loop.close()
    references: dict[int, list[Tensor]] = {}
    has_failed = False
    for name, acceleration in WAYS.items():
        say("==", name)
        try:
            _measure(bench, name, acceleration, options.sizes, references)
        except (RuntimeError, TypeError, ValueError):
            has_failed = True
            traceback.print_exc()
    return int(has_failed)


def _measure(
    bench: Bench,
    name: str,
    acceleration: Acceleration,
    sizes: list[int],
    references: dict[int, list[Tensor]],
) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    transformer = PackedTransformer(
        bench.model,
        build_attention("varlen", bench.device),
        solo_attention=build_attention("cudnn", bench.device),
        limits=SharingLimits(solo_rows=1024, max_rows=16384),
        acceleration=acceleration,
        keeps_source=True,
    )
    say("forwards are shared:", transformer.shares_forwards)
    loop = StepLoop(transformer)
    try:
        for size in sizes:
            one = bench.request(0, size, size)
            drawn = [
                run_together(loop, [bench.request(0, size, size, steps=steps)])[0]
                for steps in (1, 8)
            ]
            reference = references.setdefault(size, drawn)
            say(
                f"{size}: relative difference after one step "
                f"{difference(drawn[0], reference[0]):.4f}, after eight "
                f"{difference(drawn[1], reference[1]):.4f}"
            )
            again = run_together(loop, [bench.request(index, size, size) for index in (0, 1)])[0]
            say(f"{size}: same bytes in company: {torch.equal(again, drawn[1])}")
            bench.time_s(f"{name}: 1 x {size}", partial(run_together, loop, [one]))
            if size <= 512:
                eight = [bench.request(index, size, size) for index in range(8)]
                bench.time_s(f"{name}: 8 x {size}", partial(run_together, loop, eight))
        say(f"{name}: peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB, source kept")
    finally:
        loop.close()


if __name__ == "__main__":
    sys.exit(main())
