"""Fused row kernels of a transformer block, each with one fixed configuration.

They read merged projections where they lie (query, key and value in one row, both halves of the
feed-forward in one row), and write what the next product reads: bfloat16, or 8 bits with a scale
for each row. Sums are in float32. A row's bytes do not depend on the rows beside it.
"""

from typing import Any, Final

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from pipeline.acceleration.projections import LARGEST, QuantizedRows, Rows

_GATE_BLOCK: Final = 2048


def add_and_norm(
    hidden: Tensor,
    *,
    update: Tensor | None = None,
    update_norm: Any = None,
    gate: Tensor | None = None,
    norm: Any = None,
    factors: Tensor | None = None,
    item_of_row: Tensor | None = None,
    quantized_to: torch.dtype | None = None,
) -> tuple[Tensor, Rows]:
    """Return `sum = hidden + gate * update_norm(update)` and `factors * norm(sum)`.

    `gate` and `factors` are [items, dim] with a stride between items; whatever is None is left out.
    Without `update` the sum is `hidden` itself, without `norm` the second value is the sum.
    """
    num_rows, dim = hidden.shape
    summed = hidden if update is None else torch.empty_like(hidden)
    is_quantized = quantized_to is not None
    normed = summed
    if is_quantized or norm is not None:
        normed = torch.empty_like(hidden, dtype=quantized_to)
    scales = hidden.new_empty((num_rows, 1), dtype=torch.float32) if is_quantized else None
    _add_and_norm_kernel[(num_rows,)](
        hidden,
        update,
        None if update_norm is None else update_norm.weight,
        gate,
        None if norm is None else norm.weight,
        factors,
        item_of_row,
        summed,
        normed,
        scales,
        gate.stride(0) if gate is not None else 0,
        factors.stride(0) if factors is not None else 0,
        _eps_of(update_norm),
        _eps_of(norm),
        dim,
        0.0 if quantized_to is None else LARGEST[quantized_to],
        has_update=update is not None,
        has_update_norm=update_norm is not None,
        has_gate=gate is not None,
        has_norm=norm is not None,
        has_factors=factors is not None,
        is_quantized=is_quantized,
        block=triton.next_power_of_2(dim),
        num_warps=8,
    )
    return summed, normed if scales is None else QuantizedRows(normed, scales)


def rotate_normed_(
    merged: Tensor,
    rotary: Tensor,
    query_norm: Any,
    key_norm: Any,
    *,
    num_heads: int,
    num_key_heads: int,
    head_dim: int,
    are_halves: bool = False,
) -> None:
    """Normalise and turn query and key in place, in rows of [query, key, value].

    `rotary` is [rows, head_dim / 2, 2] float32, cosine and sine. A pair is two neighbours, or with
    `are_halves` an element of the first half and one of the second (Qwen3). A block of Triton's is
    a power of two: heads of another size take PyTorch's operations.
    """
    if head_dim != triton.next_power_of_2(head_dim):
        queries, keys = num_heads * head_dim, num_key_heads * head_dim
        parts = (merged[:, :queries], query_norm), (merged[:, queries : queries + keys], key_norm)
        for part, norm in parts:
            heads = part.view(len(part), -1, head_dim)
            heads.copy_(_turn(norm(heads).float(), rotary[:, None], are_halves=are_halves))
        return
    _rotate_normed_kernel[(merged.shape[0], 2)](
        merged,
        query_norm.weight,
        key_norm.weight,
        rotary,
        merged.stride(0),
        _eps_of(query_norm),
        num_heads,
        num_key_heads,
        heads_block=triton.next_power_of_2(num_heads),
        head_dim=head_dim,
        are_halves=are_halves,
        num_warps=4,
    )


def _turn(values: Tensor, rotary: Tensor, *, are_halves: bool) -> Tensor:
    cosine, sine = rotary.unbind(-1)
    pairs = values.view(*values.shape[:-1], *((2, -1) if are_halves else (-1, 2)))
    dim = -2 if are_halves else -1
    first, second = pairs.unbind(dim)
    turned = (first * cosine - second * sine, first * sine + second * cosine)
    return torch.stack(turned, dim).flatten(-2)


def gate_halves(merged: Tensor, *, quantized_to: torch.dtype | None = None) -> Rows:
    """Return `silu(first half) * second half` of every row."""
    num_rows, dim = merged.shape[0], merged.shape[1] // 2
    if quantized_to is None:
        gated = merged.new_empty((num_rows, dim))
        grid = (num_rows, triton.cdiv(dim, _GATE_BLOCK))
        _gate_kernel[grid](merged, gated, dim, block=_GATE_BLOCK, num_warps=4)
        return gated
    quantized = merged.new_empty((num_rows, dim), dtype=quantized_to)
    scales = merged.new_empty((num_rows, 1), dtype=torch.float32)
    _gate_quantized_kernel[(num_rows,)](
        merged,
        quantized,
        scales,
        dim,
        LARGEST[quantized_to],
        block=triton.next_power_of_2(dim),
        num_warps=16,
    )
    return QuantizedRows(quantized, scales)


def quantize(hidden: Tensor, dtype: torch.dtype) -> QuantizedRows:
    """Quantise every row by its largest absolute value."""
    return add_and_norm(hidden, quantized_to=dtype)[1]  # type: ignore[return-value]


def _eps_of(norm: Any) -> float:
    if norm is None:
        return 0.0
    return float(norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)


@triton.jit
def _store_quantized(values, quantized, scale_at, offsets, within, largest):  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    scale = tl.maximum(tl.max(tl.abs(values), axis=0), 1e-12) / largest
    tl.store(scale_at, scale)
    scaled = values / scale
    if quantized.dtype.element_ty == tl.int8:
        scaled = tl.floor(scaled + 0.5)
    tl.store(quantized + offsets, scaled.to(quantized.dtype.element_ty), mask=within)


@triton.jit
def _add_and_norm_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    hidden,
    update,
    update_weight,
    gate,
    weight,
    factors,
    item_of_row,
    summed,
    normed,
    scales,
    gate_stride,
    factor_stride,
    update_eps,
    eps,
    dim,
    largest,
    has_update: tl.constexpr,
    has_update_norm: tl.constexpr,
    has_gate: tl.constexpr,
    has_norm: tl.constexpr,
    has_factors: tl.constexpr,
    is_quantized: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    within = columns < dim
    offsets = row * dim + columns
    values = tl.load(hidden + offsets, mask=within, other=0.0).to(tl.float32)
    item = row * 0
    if has_gate or has_factors:
        item = tl.load(item_of_row + row).to(tl.int64)
    if has_update:
        added = tl.load(update + offsets, mask=within, other=0.0).to(tl.float32)
        if has_update_norm:
            variance = tl.sum(added * added, axis=0) / dim
            added *= 1.0 / tl.sqrt(variance + update_eps)
            added *= tl.load(update_weight + columns, mask=within, other=0.0).to(tl.float32)
        if has_gate:
            at = gate + item * gate_stride + columns
            added *= tl.load(at, mask=within, other=0.0).to(tl.float32)
        rounded = (values + added).to(summed.dtype.element_ty)
        tl.store(summed + offsets, rounded, mask=within)
        values = rounded.to(tl.float32)
    if has_norm:
        variance = tl.sum(values * values, axis=0) / dim
        values *= 1.0 / tl.sqrt(variance + eps)
        values *= tl.load(weight + columns, mask=within, other=0.0).to(tl.float32)
    if has_factors:
        at = factors + item * factor_stride + columns
        values *= tl.load(at, mask=within, other=0.0).to(tl.float32)
    if is_quantized:
        _store_quantized(values, normed, scales + row, offsets, within, largest)
    elif has_norm:
        tl.store(normed + offsets, values.to(normed.dtype.element_ty), mask=within)


@triton.jit
def _rotate_normed_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    merged,
    query_weight,
    key_weight,
    rotary,
    row_stride,
    eps,
    num_query_heads,
    num_key_heads,
    heads_block: tl.constexpr,
    head_dim: tl.constexpr,
    are_halves: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    half: tl.constexpr = head_dim // 2
    head = tl.arange(0, heads_block)[:, None]
    column = tl.arange(0, head_dim)
    is_key = tl.program_id(1) == 1
    start = row * row_stride + tl.where(is_key, num_query_heads * head_dim, 0)
    num_heads = tl.where(is_key, num_key_heads, num_query_heads)
    scales = tl.load(query_weight + column, mask=column < head_dim * (1 - is_key), other=0.0)
    key_scales = tl.load(key_weight + column, mask=column < head_dim * is_key, other=0.0)
    scales = scales.to(tl.float32) + key_scales.to(tl.float32)
    offsets = start + head * head_dim + column[None, :]
    within = (head < num_heads) & (column[None, :] < head_dim)
    values = tl.load(merged + offsets, mask=within, other=0.0).to(tl.float32)
    variance = tl.sum(values * values, axis=1) / head_dim
    values = values * (1.0 / tl.sqrt(variance + eps))[:, None] * scales[None, :]
    if are_halves:
        paired = tl.permute(tl.reshape(values, (heads_block, 2, half)), (0, 2, 1))
    else:
        paired = tl.reshape(values, (heads_block, half, 2))
    first, second = tl.split(paired)
    angles = tl.load(rotary + row * head_dim + column)
    cosine, sine = tl.split(tl.reshape(angles, (half, 2)))
    cosine, sine = cosine[None, :], sine[None, :]
    turned = tl.join(first * cosine - second * sine, first * sine + second * cosine)
    if are_halves:
        turned = tl.permute(turned, (0, 2, 1))
    values = tl.reshape(turned, (heads_block, head_dim))
    tl.store(merged + offsets, values.to(merged.dtype.element_ty), mask=within)


@triton.jit
def _gated(merged, row, columns, within, dim):  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    at = merged + row * 2 * dim + columns
    opening = tl.load(at, mask=within, other=0.0).to(tl.float32)
    values = tl.load(at + dim, mask=within, other=0.0).to(tl.float32)
    return values * opening * tl.sigmoid(opening)


@triton.jit
def _gate_kernel(merged, gated, dim, block: tl.constexpr):  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    within = columns < dim
    values = _gated(merged, row, columns, within, dim)
    tl.store(gated + row * dim + columns, values.to(gated.dtype.element_ty), mask=within)


@triton.jit
def _gate_quantized_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    merged, quantized, scales, dim, largest, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    within = columns < dim
    values = _gated(merged, row, columns, within, dim)
    _store_quantized(values, quantized, scales + row, row * dim + columns, within, largest)
