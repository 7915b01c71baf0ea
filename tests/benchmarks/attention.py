"""Every attention kernel that this machine runs, at the model's shapes: TFLOP/s by length.

    python tests/benchmarks/attention.py [--out attention.json]

30 heads of 128 in bfloat16, joint sequences of 512x512, 1024x1024 and 2048x2048 with a caption, and
a packed one of three lengths, whose items are compared with the bytes that each has alone. Figures
are medians of `--repeats` timings of ten launches, with their spread; only the time on the device
counts, since a recorded forward launches nothing from the host.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

sys.path[:0] = [str(Path(__file__).parents[2])]

from pipeline.acceleration.attention import (
    ATTENTION_NAMES,
    AttentionKernel,
    build_attention,
    layout_sequences,
)
from pipeline.errors import AttentionUnavailableError

HEADS: Final = 30
HEAD_DIM: Final = 128
SOLO: Final = ((1120,), (4192,), (16480,))
PACKED: Final = (1120, 2400, 1088)
NUM_LAUNCHES: Final = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("attention.json"))
    options = parser.parse_args()
    device = torch.device("cuda")
    rows: dict[str, Any] = {}
    for name in ATTENTION_NAMES:
        try:
            kernel = build_attention(name, device)
        except AttentionUnavailableError as exc:
            print(f"{name:10} {exc}", flush=True)
            continue
        rows[name] = {
            "+".join(map(str, lengths)): measure(kernel, lengths, options.repeats)
            for lengths in (*SOLO, PACKED)
        }
        rows[name]["equal bytes"] = is_exact(kernel, PACKED)
        print(f"{name:10} {rows[name]}", flush=True)
    machine = {
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


def measure(kernel: AttentionKernel, lengths: Sequence[int], repeats: int) -> str:
    """Return the median rate in TFLOP/s, and the least and the most."""
    query, key, value = draw_heads(sum(lengths))
    layout = layout_sequences(lengths, query.device)
    flop = 4 * HEADS * HEAD_DIM * sum(length**2 for length in lengths)
    attend = partial(kernel, query, key, value, layout)
    rates = [1e-12 * flop / device_s(attend) for _ in range(repeats)]
    return f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"


def device_s(run: Callable[[], object]) -> float:
    """Return the seconds that one run keeps the device busy."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(NUM_LAUNCHES):
            run()
        torch.cuda.synchronize()
    busy_us: float = sum(each.device_time_total for each in profiled.key_averages())
    return busy_us / NUM_LAUNCHES / 1e6


def is_exact(kernel: AttentionKernel, lengths: Sequence[int]) -> bool:
    """Whether an item has the same bytes packed and alone."""
    query, key, value = draw_heads(sum(lengths))
    layout = layout_sequences(lengths, query.device)
    together = kernel(query, key, value, layout)
    for rows, length in zip(layout.slices, lengths, strict=True):
        own = layout_sequences([length], query.device)
        if not torch.equal(together[rows], kernel(query[rows], key[rows], value[rows], own)):
            return False
    return True


def draw_heads(num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw query, key and value, [rows, heads, head_dim]."""
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (num_rows, HEADS, HEAD_DIM)
    query, key, value = torch.randn(
        (3, *shape), generator=generator, device="cuda", dtype=torch.bfloat16
    )
    return query, key, value


if __name__ == "__main__":
    main()
