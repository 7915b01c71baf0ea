"""Where tiles wait while others catch up.

At a GroupNorm every tile must have arrived before one may go on, so the whole picture is held: on
the device while that is small, in pinned host memory above. Recomputing instead would cost more
than three times the decode; host memory costs two copies a segment.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pipeline.vae.planes import Plane
from pipeline.vae.segments import TileState
from pipeline.vae.tiles import Margins

PIECE_BYTES: Final = 32 * 2**20
"""Pinned memory is handed out in powers of two; pieces of this size waste little of it."""


@dataclass(frozen=True, eq=False)
class ParkedState:
    """A tile's state, wherever it waits."""

    hidden: "ParkedPlane"
    residual: "ParkedPlane | None"
    margins: Margins

    @classmethod
    def park(cls, state: TileState, *, on_host: bool) -> "ParkedState":
        """Put a state aside."""
        residual = state.residual
        return cls(
            ParkedPlane.park(state.hidden, on_host=on_host),
            None if residual is None else ParkedPlane.park(residual, on_host=on_host),
            state.margins,
        )

    def fetch(self) -> TileState:
        """Return the state on its device."""
        residual = self.residual
        return TileState(
            self.hidden.fetch(), None if residual is None else residual.fetch(), self.margins
        )


@dataclass(frozen=True, eq=False)
class ParkedPlane:
    """A plane in pieces on the host, or the plane itself."""

    kept: Plane | None
    pieces: tuple[Tensor, ...]
    shape: torch.Size
    """[1, h, w, C] where channels lie together, else [1, C, h, w]."""
    is_channels_last: bool
    bias: Tensor | None
    device: torch.device

    @classmethod
    def park(cls, plane: Plane, *, on_host: bool) -> "ParkedPlane":
        """Copy to pinned memory in the order of the stream, or keep."""
        tensor, bias = plane.hidden, plane.bias
        is_channels_last = tensor.shape[1] > 1 and tensor.stride(1) == 1
        if is_channels_last:
            tensor = tensor.permute(0, 2, 3, 1)
        shape, device = tensor.shape, tensor.device
        if not on_host:
            return cls(Plane(plane.hidden, bias), (), shape, is_channels_last, bias, device)
        pieces = torch.split(tensor.flatten(), PIECE_BYTES // tensor.element_size())
        pinned = tuple(
            torch.empty_like(piece, device="cpu", pin_memory=tensor.is_cuda) for piece in pieces
        )
        for target, source in zip(pinned, pieces, strict=True):
            target.copy_(source, non_blocking=True)
        return cls(None, pinned, shape, is_channels_last, bias, device)

    def fetch(self) -> Plane:
        """Return the plane on its device."""
        if self.kept is not None:
            return self.kept
        moved = [piece.to(self.device, non_blocking=True) for piece in self.pieces]
        tensor = torch.cat(moved).view(self.shape)
        return Plane(tensor.permute(0, 3, 1, 2) if self.is_channels_last else tensor, self.bias)
