"""Fused row operations for NVIDIA GPUs, each with one fixed configuration.

A kernel that is tuned or chosen by shape may sum in another order for another number of rows. These
are not: a row is summed in the same order whatever lies beside it and in every process, and they
compile in seconds, so a replica need not wait for `torch.compile`. Sums are in float32 and rounded
once, where the model's own modules round after each factor.
"""

from typing import Any, Final

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from pipeline.denoising.row_ops import PackedRows, TorchRowOps

_GATE_BLOCK: Final = 2048


class TritonRowOps(TorchRowOps):
    """Replaces chains of small kernels by one each; linears stay the model's own modules."""

    def norm(self, module: Any, hidden: Tensor, factors: Tensor | None, rows: PackedRows) -> Tensor:
        """Normalise, then scale each item's rows."""
        if module.weight is None:  # the final layer's norm has no weight, and runs once a forward
            normed: Tensor = module(hidden)
            if factors is None:
                return normed
            return normed.mul_(factors.index_select(0, rows.item_of_row))
        return _norm_rows(module, None, hidden, factors, rows)

    def add_normed(
        self, module: Any, hidden: Tensor, update: Tensor, factors: Tensor | None, rows: PackedRows
    ) -> Tensor:
        """Return `hidden` plus the normalised `update`, each item's rows scaled."""
        return _norm_rows(module, hidden, update, factors, rows)

    def rotate_normed(self, module: Any, heads: Tensor, rows: PackedRows) -> Tensor:
        """Normalise each head, then turn it by its position."""
        num_rows, num_heads, head_dim = heads.shape
        if module is None or head_dim != triton.next_power_of_2(head_dim):
            return super().rotate_normed(module, heads, rows)
        turned = torch.empty_like(heads)
        _rotate_normed_kernel[(num_rows,)](
            heads,
            module.weight,
            torch.view_as_real(rows.rotary),
            turned,
            module.eps,
            num_heads,
            heads_block=triton.next_power_of_2(num_heads),
            head_dim=head_dim,
            num_warps=4,
        )
        return turned

    def gate(self, gate: Tensor, hidden: Tensor, rows: PackedRows) -> Tensor:
        """Return `silu(gate) * hidden`."""
        gated = torch.empty_like(gate)
        count = gate.numel()
        grid = (triton.cdiv(count, _GATE_BLOCK),)
        _gate_kernel[grid](gate, hidden, gated, count, block=_GATE_BLOCK, num_warps=4)
        return gated


def _norm_rows(
    module: Any, base: Tensor | None, hidden: Tensor, factors: Tensor | None, rows: PackedRows
) -> Tensor:
    num_rows, dim = hidden.shape
    normed = torch.empty_like(hidden)
    _norm_kernel[(num_rows,)](
        hidden,
        module.weight,
        base,
        factors,
        rows.item_of_row,
        normed,
        0 if factors is None else factors.stride(0),
        module.eps,
        dim,
        has_base=base is not None,
        has_factors=factors is not None,
        block=triton.next_power_of_2(dim),
        num_warps=8,
    )
    return normed


@triton.jit
def _norm_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    hidden,
    weight,
    base,
    factors,
    item_of_row,
    normed,
    factor_stride,
    eps,
    dim,
    has_base: tl.constexpr,
    has_factors: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    within = columns < dim
    values = tl.load(hidden + row * dim + columns, mask=within, other=0.0).to(tl.float32)
    variance = tl.sum(values * values, axis=0) / dim
    scales = tl.load(weight + columns, mask=within, other=0.0).to(tl.float32)
    values = values * (1.0 / tl.sqrt(variance + eps)) * scales
    if has_factors:
        item = tl.load(item_of_row + row).to(tl.int64)
        values *= tl.load(factors + item * factor_stride + columns, mask=within, other=0.0).to(
            tl.float32
        )
    if has_base:
        values += tl.load(base + row * dim + columns, mask=within, other=0.0).to(tl.float32)
    tl.store(normed + row * dim + columns, values.to(normed.dtype.element_ty), mask=within)


@triton.jit
def _rotate_normed_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    heads,
    weight,
    rotary,
    turned,
    eps,
    num_heads,
    heads_block: tl.constexpr,
    head_dim: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    half: tl.constexpr = head_dim // 2
    head = tl.arange(0, heads_block)[:, None]
    column = tl.arange(0, head_dim)
    offsets = (row * num_heads + head) * head_dim + column[None, :]
    within = (head < num_heads) & (column[None, :] < head_dim)
    values = tl.load(heads + offsets, mask=within, other=0.0).to(tl.float32)
    variance = tl.sum(values * values, axis=1) / head_dim
    scales = tl.load(weight + column).to(tl.float32)
    values = values * (1.0 / tl.sqrt(variance + eps))[:, None] * scales[None, :]
    # Pairs are neighbours in memory: whole rows are read and written, and split in registers.
    first, second = tl.split(tl.reshape(values, (heads_block, half, 2)))
    angles = tl.load(rotary + row * head_dim + column)
    cosine, sine = tl.split(tl.reshape(angles, (half, 2)))
    cosine, sine = cosine[None, :], sine[None, :]
    pairs = tl.join(first * cosine - second * sine, first * sine + second * cosine)
    values = tl.reshape(pairs, (heads_block, head_dim))
    tl.store(turned + offsets, values.to(turned.dtype.element_ty), mask=within)


@triton.jit
def _gate_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    gate, hidden, gated, count, block: tl.constexpr
):
    offsets = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    within = offsets < count
    opening = tl.load(gate + offsets, mask=within, other=0.0).to(tl.float32)
    values = tl.load(hidden + offsets, mask=within, other=0.0).to(tl.float32)
    values *= opening * tl.sigmoid(opening)
    tl.store(gated + offsets, values.to(gated.dtype.element_ty), mask=within)
