"""What a transformer block does to packed rows, apart from attention.

`RowOps` is the seam between the block and the machine: plain PyTorch here, fused kernels for GPUs
in `triton_row_ops`. Every operation gives a row the same bytes whatever rows lie beside it.
"""

from dataclasses import dataclass
from typing import Any, Protocol

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

    def gate(self, gate: Tensor, hidden: Tensor) -> Tensor:
        """Return `silu(gate) * hidden`."""
        ...


class TorchRowOps:
    """The model's own modules, so adapters and quantised layers that replace them work here."""

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
        return rotate(heads if module is None else module(heads), rows.rotary)

    def gate(self, gate: Tensor, hidden: Tensor) -> Tensor:
        """Return `silu(gate) * hidden`."""
        return F.silu(gate).mul_(hidden)
