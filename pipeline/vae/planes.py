"""What a VAE decoder does to a plane, apart from the order in which it does it.

`PlaneOps` is the seam between the decoder and the machine: diffusers' own modules here, fused
kernels for GPUs in `fused_planes`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Plane:
    """Hidden state between two operations."""

    hidden: Tensor
    """[1, C, h, w]."""
    bias: Tensor | None = None
    """[C] that `hidden` still lacks: whoever reads it next adds it on the way."""
    moments: Any | None = None
    """What was learned for the next norm when `hidden` was written, in the operations' own form."""


class PlaneOps(Protocol):
    """The operations of a decoder."""

    def convolve(self, conv: nn.Conv2d, plane: Plane) -> Plane:
        """Apply a convolution that keeps the size."""
        ...

    def norm(
        self, norm: nn.GroupNorm, plane: Plane, *, activates: bool = True, overwrites: bool = False
    ) -> Plane:
        """Normalise, and apply SiLU unless told otherwise; the plane's memory may be reused."""
        ...

    def add(self, plane: Plane, residual: Plane) -> Plane:
        """Return the sum; the memory of `plane` may be reused."""
        ...

    def attend(self, attention: Any, plane: Plane) -> Plane:
        """Apply diffusers' `Attention` with its norm and its residual."""
        ...

    def upsample(self, upsampler: Any, plane: Plane) -> Plane:
        """Double both sides, and convolve."""
        ...

    def finish(self, conv: nn.Conv2d, plane: Plane) -> Tensor:
        """Apply the convolution to colours."""
        ...


class TorchPlaneOps:
    """The model's own modules: any device, any precision."""

    def convolve(self, conv: nn.Conv2d, plane: Plane) -> Plane:
        """Apply a convolution."""
        return Plane(conv(plane.hidden))

    def norm(
        self, norm: nn.GroupNorm, plane: Plane, *, activates: bool = True, overwrites: bool = False
    ) -> Plane:
        """Normalise; PyTorch's kernel needs memory of its own."""
        normed = norm(plane.hidden)
        return Plane(F.silu(normed, inplace=True) if activates else normed)

    def add(self, plane: Plane, residual: Plane) -> Plane:
        """Return the sum."""
        return Plane(residual.hidden + plane.hidden)

    def attend(self, attention: Any, plane: Plane) -> Plane:
        """Apply attention."""
        return Plane(attention(plane.hidden))

    def upsample(self, upsampler: Any, plane: Plane) -> Plane:
        """Double both sides, and convolve."""
        return Plane(upsampler(plane.hidden))

    def finish(self, conv: nn.Conv2d, plane: Plane) -> Tensor:
        """Apply the convolution to colours."""
        colours: Tensor = conv(plane.hidden)
        return colours
