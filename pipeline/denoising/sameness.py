"""Whether packing rows changes the bytes of a linear on this machine.

A matrix library chooses its kernel by shape, so a row may come out differently in other company.
Measured on a Xeon with AVX-512 and AMX, torch 2.13: in float32 no linear of the embedded model
differs; in bfloat16 those with 682 or 2,560 inputs do. On an H100 that of the final layer does. So
it is measured where it matters: at load, on the model's own weights, at every row count that a
shared forward may have.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.acceleration.projections import Projection, quantize_rows
from pipeline.denoising.cost import SEQUENCE_MULTIPLE
from pipeline.denoising.row_ops import RowOps, TorchRowOps

_BUCKET_MULTIPLE: Final = 128
"""Row counts of buckets divide by this, see `BucketGrid`."""


@torch.no_grad()
def packs_exactly(linears: Iterable[torch.nn.Linear], row_counts: range) -> bool:
    """Compare rows of each linear in company of every size, byte by byte."""
    distinct = {
        (type(linear), linear.weight.shape, linear.weight.dtype, linear.bias is None): linear
        for linear in linears
    }
    return all(
        _is_exact(
            linear,
            _draw_rows(max(row_counts), linear.in_features).to(
                linear.weight.device, linear.weight.dtype
            ),
            row_counts,
        )
        for linear in distinct.values()
    )


def build_row_ops(device: torch.device) -> RowOps:
    """Build the fastest row operations of a device; linears are the model's own."""
    if device.type != "cuda":
        return TorchRowOps()
    from pipeline.denoising.triton_row_ops import TritonRowOps  # comes with CUDA builds only

    return TritonRowOps()


def choose_row_ops(
    model: Any,
    *,
    is_strict: bool,
    max_rows: int,
    linears: Sequence[torch.nn.Linear] | None = None,
) -> tuple[RowOps, bool]:
    """Choose the row operations for shared forwards of up to `max_rows`.

    Args:
        model: The transformer.
        is_strict: Whether bytes must not depend on the company.
        max_rows: Tokens of a shared forward.
        linears: What the operations multiply by; all of the packed rows' if None.

    Returns:
        The operations, and whether items may share a forward.
    """
    ops = build_row_ops(model.device)
    linears = linears_of_packed_rows(model) if linears is None else linears
    is_cuda = model.device.type == "cuda"
    row_counts = _row_counts_of_buckets(model.device, max_rows)
    if not is_strict or packs_exactly(linears, row_counts):
        return ops, True
    if not is_cuda:
        return ops, False
    from pipeline.denoising.triton_linear import RowInvariantRowOps  # comes with CUDA builds only

    if all(RowInvariantRowOps.covers(linear) for linear in linears):
        return RowInvariantRowOps(linears, row_counts), True
    return ops, False


def linears_of_packed_rows(model: Any) -> list[torch.nn.Linear]:
    """Return the linears that `PackedTransformer` runs over the rows of several items."""
    blocks = (*model.noise_refiner, *model.layers)
    in_blocks = [
        module
        for block in blocks
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("adaLN_modulation")
    ]
    return [*in_blocks, *linears_outside_blocks(model)]


def linears_outside_blocks(model: Any) -> list[torch.nn.Linear]:
    """Return those of the first and of the last layer."""
    embedders = list(model.all_x_embedder.values())
    final = [layer.linear for layer in model.all_final_layer.values()]
    return [*embedders, *final]


@torch.no_grad()
def projections_pack_exactly(
    projections: Iterable[Projection],
    device: torch.device,
    dtype: torch.dtype,
    *,
    max_rows: int,
) -> bool:
    """Compare rows of each merged product in company of every size, byte by byte."""
    row_counts = _row_counts_of_buckets(device, max_rows)
    distinct = {(type(each), each.shape): each for each in projections}
    are_exact = all(
        _is_exact(
            partial(_multiply, each),
            _draw_rows(max(row_counts), each.shape[1]).to(device, dtype),
            row_counts,
        )
        for each in distinct.values()
    )
    if device.type == "cuda":
        # Every row count has left blocks of its own in the allocator's cache.
        torch.cuda.empty_cache()
    return are_exact


def _multiply(projection: Projection, rows: Tensor) -> Tensor:
    reads = projection.reads
    return projection(rows if reads is None else quantize_rows(rows, reads))


def _row_counts_of_buckets(device: torch.device, max_rows: int) -> range:
    multiple = _BUCKET_MULTIPLE if device.type == "cuda" else SEQUENCE_MULTIPLE
    # A bucket rounds images and captions up, so it may have a few rows more than its items.
    return range(multiple, max_rows + 4 * multiple, multiple)


def _draw_rows(num_rows: int, dim: int) -> Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator("cpu").manual_seed(0))


def _is_exact(
    multiply: Callable[[Tensor], Tensor], rows: Tensor, row_counts: Iterable[int]
) -> bool:
    most = multiply(rows)
    # The first rows of fewer: company does not matter. The last: nor does the place in it.
    return all(
        torch.equal(multiply(rows[:count]), most[:count])
        and torch.equal(multiply(rows[-count:]), most[-count:])
        for count in row_counts
    )
