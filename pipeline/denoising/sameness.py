"""Whether packing rows changes the bytes of a linear on this machine.

A matrix library chooses its kernel by shape, so a row may come out differently in other company.
Measured on a Xeon with AVX-512 and AMX, torch 2.13: in float32 no linear of the embedded model
differs; in bfloat16 those with 682 or 2,560 inputs do. So it is measured where it matters: at load,
on the model's own weights.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.denoising.row_ops import RowOps, TorchRowOps

CPU_ROWS: Final = (32, 64, 96, 128, 160, 224, 288, 480, 736, 1056, 1632, 2080)
"""A sample of the row counts that exact shapes have."""

CUDA_ROWS: Final = tuple(range(128, 16384 + 128, 128))
"""Every row count that buckets have."""


@torch.no_grad()
def packs_exactly(
    linears: Iterable[torch.nn.Linear], *, probed_rows: Sequence[int] = CPU_ROWS
) -> bool:
    """Compare rows of each linear alone with the same rows among others, byte by byte."""
    distinct = {
        (type(linear), linear.weight.shape, linear.weight.dtype, linear.bias is None): linear
        for linear in linears
    }
    return all(_is_exact(linear, probed_rows) for linear in distinct.values())


def build_row_ops(device: torch.device) -> RowOps:
    """Build the fastest row operations of a device; linears are the model's own."""
    if device.type != "cuda":
        return TorchRowOps()
    from pipeline.denoising.triton_row_ops import TritonRowOps  # comes with CUDA builds only

    return TritonRowOps()


def choose_row_ops(model: Any, *, is_strict: bool) -> tuple[RowOps, bool]:
    """Choose the row operations for shared forwards.

    Returns:
        The operations, and whether items may share a forward.
    """
    ops, linears = build_row_ops(model.device), linears_of_packed_rows(model)
    is_cuda = model.device.type == "cuda"
    if not is_strict or packs_exactly(linears, probed_rows=CUDA_ROWS if is_cuda else CPU_ROWS):
        return ops, True
    if not is_cuda:
        return ops, False
    from pipeline.denoising.triton_linear import RowInvariantRowOps  # comes with CUDA builds only

    if all(RowInvariantRowOps.covers(linear) for linear in linears):
        return RowInvariantRowOps(), True
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
    embedders = list(model.all_x_embedder.values())
    final = [layer.linear for layer in model.all_final_layer.values()]
    return [*in_blocks, *embedders, *final]


def _is_exact(linear: torch.nn.Linear, probed_rows: Sequence[int]) -> bool:
    weight = linear.weight
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randn(max(probed_rows), linear.in_features, generator=generator)
    rows = drawn.to(weight.device, weight.dtype)
    reference: Tensor = linear(rows)
    return all(torch.equal(linear(rows[-count:]), reference[-count:]) for count in probed_rows)
