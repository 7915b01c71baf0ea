"""Rotary position embedding over caption, image row and image column."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor

from pipeline.denoising.packing import ItemShape


@dataclass(frozen=True)
class PositionGrid:
    """Where an item's patches lie on the canvas, in patches.

    A tile is given its true place in the whole image. `spacing` below 1 compresses a large canvas
    into the positions that the model was trained on.
    """

    row_origin: float = 0.0
    col_origin: float = 0.0
    spacing: float = 1.0


WHOLE_CANVAS: Final = PositionGrid()
"""An item that is the whole image."""


@dataclass(frozen=True)
class RotaryEmbedder:
    """Computes `polar(1, position * theta ** (-2 i / dim))` for each of three axes.

    diffusers keeps a table of whole positions; computing in float64 gives the same complex64
    numbers there, and others between them.
    """

    theta: float
    axes_dims: tuple[int, ...]

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Read theta and axes from a `ZImageTransformer2DModel`'s configuration."""
        return cls(config.rope_theta, tuple(config.axes_dims))

    def embed_caption(self, num_rows: int) -> Tensor:
        """Embed a caption: its positions count from 1, pads included.

        Returns:
            A [num_rows, head_dim / 2] complex64 tensor on the CPU.
        """
        counting = torch.arange(1, num_rows + 1, dtype=torch.float64)
        zeros = torch.zeros_like(counting)
        return self._embed((counting, zeros, zeros))

    def embed_image(self, shape: ItemShape, grid: PositionGrid) -> Tensor:
        """Embed an image: its first axis is the position after the caption, its pads sit at 0.

        Returns:
            A [shape.num_image_rows, head_dim / 2] complex64 tensor on the CPU.
        """
        rows = grid.row_origin + grid.spacing * torch.arange(shape.patch_rows, dtype=torch.float64)
        cols = grid.col_origin + grid.spacing * torch.arange(shape.patch_cols, dtype=torch.float64)
        row_of, col_of = torch.meshgrid(rows, cols, indexing="ij")
        after_caption = torch.full_like(row_of, shape.num_caption_rows + 1)
        num_pads = shape.num_image_rows - shape.num_patches
        axes = (after_caption, row_of, col_of)
        pads = torch.zeros(num_pads, dtype=torch.float64)
        return self._embed([torch.cat([axis.flatten(), pads]) for axis in axes])

    def _embed(self, positions: Sequence[Tensor]) -> Tensor:
        embedded = []
        for axis, dim in zip(positions, self.axes_dims, strict=True):
            exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
            angles = torch.outer(axis, 1.0 / (self.theta**exponents)).float()
            embedded.append(torch.polar(torch.ones_like(angles), angles))
        return torch.cat(embedded, dim=-1)


def rotate(heads: Tensor, rotary: Tensor) -> Tensor:
    """Turn [rows, heads, head_dim] by [rows, head_dim / 2] complex numbers, pair by pair."""
    num_rows, num_heads, head_dim = heads.shape
    pairs = torch.view_as_complex(heads.float().reshape(num_rows, num_heads, head_dim // 2, 2))
    turned = torch.view_as_real(pairs * rotary.unsqueeze(1))
    return turned.flatten(-2).type_as(heads)
