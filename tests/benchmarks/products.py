"""The matrix products of the transformer's blocks by precision: TFLOP/s while they go on for long.

    python tests/benchmarks/products.py [--rows 1120 4192 8192] [--out products.json]

Each of a block's products with the weights of 34 blocks (a forward has 32), so that no weight is in
the cache, recorded and replayed for `--seconds` after half as long a start: a card that is at the
limit of its power multiplies more slowly than in a short run. "gate" is the first product of
the feed-forward with its gate and, in 8 bits, the rows quantised for the next. "equal" says whether
the first 544 rows have the same bytes without the others.
"""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[2])]

from pipeline.acceleration.gated_projections import GatedProjection, merge_gated
from pipeline.acceleration.options import Precision
from pipeline.acceleration.projections import Projection, QuantizedRows, Rows, merge, quantize_rows

NUM_BLOCKS: Final = 34
DIM: Final = 3840
HIDDEN: Final = 10_240
PRODUCTS: Final = {
    "qkv": (DIM, (DIM, DIM, DIM)),
    "out": (DIM, (DIM,)),
    "gate": (DIM, (HIDDEN, HIDDEN)),
    "last": (HIDDEN, (DIM,)),
}
"""Inputs, and outputs of the linears that are merged."""
PRECISIONS: Final = (Precision.BFLOAT16, Precision.FLOAT8, Precision.INT8)
FEW_ROWS: Final = 544


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[1120, 4192, 8192])
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("products.json"))
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        totals = dict.fromkeys(options.rows, 0.0)
        for name, (inner, outputs) in PRODUCTS.items():
            products = [_build(inner, outputs, precision) for _ in range(NUM_BLOCKS)]
            for num_rows in options.rows:
                rows = _draw(num_rows, inner)
                ms = _time_ms(products, rows, options.seconds)
                totals[num_rows] += ms
                tflop = 2e-12 * num_rows * inner * sum(outputs) * NUM_BLOCKS
                results.append(
                    {
                        "precision": precision.value,
                        "product": name,
                        "rows": num_rows,
                        "ms": ms,
                        "tflop_s": 1e3 * tflop / ms,
                        "equal": _is_equal(products[0], rows),
                    }
                )
                print(results[-1], flush=True)
            del products
            torch.cuda.empty_cache()
        told = ", ".join(f"{num_rows} rows {ms:.2f} ms" for num_rows, ms in totals.items())
        print(f"{precision.value}, all products: {told}", flush=True)
    machine = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    options.out.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


def _build(inner: int, outputs: tuple[int, ...], precision: Precision) -> Any:
    linears = [
        nn.Linear(inner, width, bias=False, device="cuda", dtype=torch.bfloat16)
        for width in outputs
    ]
    if len(outputs) == 2:
        return merge_gated(linears, precision, keeps_source=False)
    return merge(linears, precision, keeps_source=False)


def _draw(num_rows: int, inner: int) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(0)
    return torch.randn(num_rows, inner, generator=generator, device="cuda", dtype=torch.bfloat16)


def _run(product: Projection | GatedProjection, rows: Rows) -> Rows:
    if isinstance(rows, QuantizedRows) and hasattr(product, "quantized"):
        return product.quantized(rows, rows.values.dtype)  # type: ignore[no-any-return]
    return product(rows)


@torch.no_grad()
def _time_ms(products: list[Any], rows: Tensor, seconds: float) -> float:
    """Return the milliseconds of all products, one after another."""
    reads = products[0].reads
    given: Rows = rows if reads is None else quantize_rows(rows, reads)

    def run_all() -> list[Rows]:
        return [_run(each, given) for each in products]

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run_all()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run_all()
    _replay(graph, seconds / 2)
    return _replay(graph, seconds)


def _replay(graph: torch.cuda.CUDAGraph, seconds: float) -> float:
    begun = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    ends_s = time.monotonic() + seconds
    count = 0
    begun.record()
    while time.monotonic() < ends_s:
        for _ in range(4):
            graph.replay()
        count += 4
        torch.cuda.synchronize()
    ended.record()
    torch.cuda.synchronize()
    return float(begun.elapsed_time(ended)) / count


@torch.no_grad()
def _is_equal(product: Any, rows: Tensor) -> bool:
    def multiply(part: Tensor) -> Tensor:
        multiplied: Tensor = product(
            part if product.reads is None else quantize_rows(part, product.reads)
        )
        return multiplied

    return torch.equal(multiply(rows)[:FEW_ROWS], multiply(rows[:FEW_ROWS]))


if __name__ == "__main__":
    main()
