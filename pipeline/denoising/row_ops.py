"""What a transformer block does to packed rows, apart from attention.

`RowOps` is the seam between the block and the machine: plain PyTorch here, fused kernels for GPUs
in `triton_row_ops`. Every operation gives a row the same bytes whatever rows lie beside it.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.acceleration.attention import SequenceLayout
from pipeline.denoising.positions import rotate


@dataclass(frozen=True, eq=False)
class PackedRows:
    """A packed sequence's fixed part: who lies where, and the rotary embedding of each row."""

    layout: SequenceLayout
    item_of_row: Tensor
    """[rows] int32."""
    rotary: Tensor
    """[rows, head_dim / 2] complex64."""


class RowOps(Protocol):
    """The row-wise operations of a block. `factors` are [items, dim], one row for each item."""

    def linear(self, module: Any, hidden: Tensor) -> Tensor:
        """Apply a linear layer."""
        ...

    def norm(self, module: Any, hidden: Tensor, factors: Tensor | None, rows: PackedRows) -> Tensor:
        """Normalise, then scale each item's rows."""
        ...

    def add_normed(
        self, module: Any, hidden: Tensor, update: Tensor, factors: Tensor | None, rows: PackedRows
    ) -> Tensor:
        """Return `hidden` plus the normalised `update`, each item's rows scaled."""
        ...

    def rotate_normed(self, module: Any, heads: Tensor, rows: PackedRows) -> Tensor:
        """Normalise each head of [rows, heads, head_dim], then turn it by its position."""
        ...

    def gate(self, gate: Tensor, hidden: Tensor, rows: PackedRows) -> Tensor:
        """Return `silu(gate) * hidden`."""
        ...


class TorchRowOps:
    """The model's own modules, so adapters and quantised layers that replace them work here.

    Gate and rotation run item by item. PyTorch cuts an elementwise operation into a piece a thread,
    and what does not fill a vector at a piece's end goes through another `exp` and another complex
    product: with the cuts elsewhere, other elements would differ in their last bit.
    """

    def linear(self, module: Any, hidden: Tensor) -> Tensor:
        """Apply a linear layer."""
        projected: Tensor = module(hidden)
        return projected

    def norm(self, module: Any, hidden: Tensor, factors: Tensor | None, rows: PackedRows) -> Tensor:
        """Normalise, then scale each item's rows."""
        normed: Tensor = module(hidden)
        if factors is not None:
            for index, item_rows in enumerate(rows.layout.slices):
                normed[item_rows].mul_(factors[index])
        return normed

    def add_normed(
        self, module: Any, hidden: Tensor, update: Tensor, factors: Tensor | None, rows: PackedRows
    ) -> Tensor:
        """Return `hidden` plus the normalised `update`, each item's rows scaled."""
        return self.norm(module, update, factors, rows).add_(hidden)

    def rotate_normed(self, module: Any, heads: Tensor, rows: PackedRows) -> Tensor:
        """Normalise each head, then turn it by its position."""
        normed: Tensor = heads if module is None else module(heads)
        parts = [rotate(normed[item], rows.rotary[item]) for item in rows.layout.slices]
        return torch.cat(parts)

    def gate(self, gate: Tensor, hidden: Tensor, rows: PackedRows) -> Tensor:
        """Return `silu(gate) * hidden`."""
        for item in rows.layout.slices:
            F.silu(gate[item], inplace=True).mul_(hidden[item])
        return gate
