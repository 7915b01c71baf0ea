"""One transformer block over packed rows, from the weights of diffusers' `ZImageTransformerBlock`.

The block's own modules are called, so adapters and quantised linears that replace them work here.
Linears and norms run over all rows at once; modulation and attention run item by item.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.acceleration.attention import AttentionKernel, SequenceLayout
from pipeline.denoising.positions import rotate


@dataclass(frozen=True, eq=False)
class PackedRows:
    """A packed sequence's fixed part: who lies where, and the rotary embedding of each row."""

    layout: SequenceLayout
    rotary: Tensor
    """[rows, head_dim / 2] complex64."""


def run_block(
    block: Any,
    hidden: Tensor,
    rows: PackedRows,
    attention: AttentionKernel,
    modulation: Tensor | None,
) -> Tensor:
    """Run one block.

    Args:
        block: A `ZImageTransformerBlock`.
        hidden: [rows, dim].
        rows: The layout of `hidden`.
        attention: The kernel.
        modulation: [items, 4, dim]: scale and gate of attention, scale and gate of the
            feed-forward. None for a block without modulation.

    Returns:
        The block's output, [rows, dim]; `hidden` is left as it was.
    """
    attended = block.attention_norm1(hidden)
    if modulation is not None:
        _scale_items(attended, modulation[:, 0], rows.layout)
    attended = block.attention_norm2(_attend(block.attention, attended, rows, attention))
    if modulation is not None:
        _scale_items(attended, modulation[:, 1], rows.layout)
    hidden = hidden + attended

    fed = block.ffn_norm1(hidden)
    if modulation is not None:
        _scale_items(fed, modulation[:, 2], rows.layout)
    fed = block.ffn_norm2(block.feed_forward(fed))
    if modulation is not None:
        _scale_items(fed, modulation[:, 3], rows.layout)
    return hidden.add_(fed)


def _attend(module: Any, hidden: Tensor, rows: PackedRows, attention: AttentionKernel) -> Tensor:
    query, key, value = (
        projection(hidden).unflatten(-1, (module.heads, -1))
        for projection in (module.to_q, module.to_k, module.to_v)
    )
    if module.norm_q is not None:
        query = module.norm_q(query)
    if module.norm_k is not None:
        key = module.norm_k(key)
    query, key = rotate(query, rows.rotary), rotate(key, rows.rotary)
    attended: Tensor = module.to_out[0](attention(query, key, value, rows.layout).flatten(1))
    return attended


def _scale_items(hidden: Tensor, factors: Tensor, layout: SequenceLayout) -> None:
    for index, item_rows in enumerate(layout.slices):
        hidden[item_rows].mul_(factors[index])
