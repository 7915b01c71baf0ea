"""Where tiles wait while others catch up.

At a GroupNorm every tile must have arrived before one may go on, so the whole picture is held: on
the device while that is small, in pinned host memory above. Recomputing instead would cost more
than three times the decode; host memory costs two copies a segment.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pipeline.vae.segments import TileState
from pipeline.vae.tiles import Margins

PIECE_BYTES: Final = 32 * 2**20
"""Pinned memory is handed out in powers of two; pieces of this size waste little of it."""


@dataclass(frozen=True, eq=False)
class ParkedState:
    """A tile's state, wherever it waits."""

    hidden: "ParkedTensor"
    residual: "ParkedTensor | None"
    margins: Margins

    @classmethod
    def park(cls, state: TileState, *, on_host: bool) -> "ParkedState":
        """Put a state aside."""
        residual = state.residual
        return cls(
            ParkedTensor.park(state.hidden, on_host=on_host),
            None if residual is None else ParkedTensor.park(residual, on_host=on_host),
            state.margins,
        )

    def fetch(self) -> TileState:
        """Return the state on its device."""
        residual = self.residual
        return TileState(
            self.hidden.fetch(), None if residual is None else residual.fetch(), self.margins
        )


@dataclass(frozen=True, eq=False)
class ParkedTensor:
    """A tensor in pieces on the host, or the tensor itself."""

    kept: Tensor | None
    pieces: tuple[Tensor, ...]
    shape: torch.Size
    device: torch.device

    @classmethod
    def park(cls, tensor: Tensor, *, on_host: bool) -> "ParkedTensor":
        """Copy to pinned memory in the order of the stream, or keep."""
        if not on_host:
            return cls(tensor, (), tensor.shape, tensor.device)
        pieces = torch.split(tensor.flatten(), PIECE_BYTES // tensor.element_size())
        pinned = tuple(
            torch.empty_like(piece, device="cpu", pin_memory=tensor.is_cuda) for piece in pieces
        )
        for target, source in zip(pinned, pieces, strict=True):
            target.copy_(source, non_blocking=True)
        return cls(None, pinned, tensor.shape, tensor.device)

    def fetch(self) -> Tensor:
        """Return the tensor on its device."""
        if self.kept is not None:
            return self.kept
        moved = [piece.to(self.device, non_blocking=True) for piece in self.pieces]
        return torch.cat(moved).view(self.shape)
