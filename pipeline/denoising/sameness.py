"""Whether packing rows changes the bytes of a linear on this machine.

A matrix library chooses its kernel by shape, so a row may come out differently in other company.
Measured on a Xeon with AVX-512 and AMX, torch 2.13: in float32 no linear of the embedded model
differs; in bfloat16 those with 682 or 2,560 inputs do. On an H100 that of the final layer does. So
it is measured where it matters: at load, on the model's own weights, at every row count that a
shared forward may have.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.acceleration.projections import DenseProjection, Projection, quantize_rows
from pipeline.denoising.row_ops import RowOps, TorchRowOps


@torch.no_grad()
def packs_exactly(
    linears: Iterable[torch.nn.Linear], row_counts: Sequence[int], ops: RowOps | None = None
) -> bool:
    """Compare rows of each linear in company of every size, byte by byte.

    Args:
        linears: Each with the weights that it has.
        row_counts: How many rows there may be.
        ops: What multiplies; the linears themselves if None.
    """
    distinct = {
        (type(linear), linear.weight.shape, linear.weight.dtype, linear.bias is None): linear
        for linear in linears
    }
    return all(
        _is_exact(
            linear if ops is None else partial(ops.linear, linear),
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
    row_counts: Sequence[int],
    linears: Sequence[torch.nn.Linear] | None = None,
) -> tuple[RowOps, bool]:
    """Choose the row operations for shared forwards.

    Args:
        model: The transformer.
        is_strict: Whether bytes must not depend on the company.
        row_counts: How many rows a shared forward may multiply.
        linears: What the operations multiply by; all of the packed rows' if None.

    Returns:
        The operations, and whether items may share a forward.
    """
    ops = build_row_ops(model.device)
    linears = linears_of_packed_rows(model) if linears is None else linears
    is_cuda = model.device.type == "cuda"
    if not is_strict or packs_exactly(linears, row_counts):
        return ops, True
    if not is_cuda:
        return ops, False
    from pipeline.denoising.triton_linear import RowInvariantRowOps  # comes with CUDA builds only

    if all(RowInvariantRowOps.covers(linear) for linear in linears):
        invariant = RowInvariantRowOps(linears, row_counts)
        if packs_exactly(linears, row_counts, invariant):
            return invariant, True
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
def make_pack_exactly(
    projections: Sequence[Projection],
    device: torch.device,
    dtype: torch.dtype,
    row_counts: Sequence[int],
) -> dict[Projection, Projection] | None:
    """Find for each merged product one whose rows have the same bytes in company of every size.

    That is the product itself where it was found so, and otherwise, in 16 bits, one that multiplies
    by the library at some numbers of rows only. Its kernel needs Triton.

    Returns:
        By product, what to multiply by; None if there is none for one of them.
    """
    distinct: dict[object, list[Projection]] = {}
    for each in projections:
        distinct.setdefault((type(each), each.shape), []).append(each)
    exact: dict[Projection, Projection] = {}
    for alike in distinct.values():
        rows = _draw_rows(max(row_counts), alike[0].shape[1]).to(device, dtype)
        found = _make_alike_exact(alike, rows, row_counts)
        if found is None:
            return None
        exact.update(zip(alike, found, strict=True))
    if device.type == "cuda":
        # Every row count has left blocks of its own in the allocator's cache.
        torch.cuda.empty_cache()
    return exact


def _make_alike_exact(
    alike: Sequence[Projection], rows: Tensor, row_counts: Sequence[int]
) -> Sequence[Projection] | None:
    """Find exact products for weights of one shape, the first of which is looked at."""
    first = alike[0]
    if _is_exact(partial(_multiply, first), rows, row_counts):
        return alike
    if type(first) is not DenseProjection:
        return None
    from pipeline.denoising import triton_linear  # comes with CUDA builds only

    if not triton_linear.multiplies(first.weight):
        return None
    counts = triton_linear.find_library_counts(first, first.weight, None, row_counts)
    found = [
        triton_linear.RowInvariantProjection(each.weight, counts)
        for each in alike
        if isinstance(each, DenseProjection)
    ]
    return found if _is_exact(partial(_multiply, found[0]), rows, row_counts) else None


def _multiply(projection: Projection, rows: Tensor) -> Tensor:
    reads = projection.reads
    return projection(rows if reads is None else quantize_rows(rows, reads))


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
