"""What a VAE decoder does to a plane, apart from the order in which it does it.

`PlaneOps` is the seam between the decoder and the machine: diffusers' own modules here, fused
kernels for GPUs in `fused_planes`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.vae.mid_block import attend_plane
from pipeline.vae.moments import ChannelMap, GroupMoments, gather_moments


@dataclass(frozen=True, eq=False)
class Plane:
    """Hidden state between two operations."""

    hidden: Tensor
    """[1, C, h, w]."""
    bias: Tensor | None = None
    """[C] that `hidden` still lacks: whoever reads it next adds it on the way."""
    moments: Any | None = None
    """What was learned for the next norm when `hidden` was written, in the operations' own form."""

    def window(self, rows: slice, columns: slice) -> "Plane":
        """Return a part of the plane, in the same memory."""
        return Plane(self.hidden[..., rows, columns], self.bias)


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

    def gather(self, plane: Plane, num_groups: int) -> GroupMoments:
        """Gather the moments of groups of channels, on the device and without waiting for it."""
        ...

    def norm_with(self, plane: Plane, channels: ChannelMap, *, overwrites: bool = False) -> Plane:
        """Apply a norm whose statistics are known, and SiLU; the plane's memory may be reused."""
        ...

    def add(self, plane: Plane, residual: Plane) -> Plane:
        """Return the sum, in the memory of `plane`."""
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
    """The model's own modules: any device, any precision.

    Attention in chunks is linear in memory, and rounds differently.
    """

    def __init__(self, *, attends_in_chunks: bool = False) -> None:
        self._attends_in_chunks = attends_in_chunks

    def convolve(self, conv: nn.Conv2d, plane: Plane) -> Plane:
        """Apply a convolution."""
        return Plane(conv(plane.hidden))

    def norm(
        self, norm: nn.GroupNorm, plane: Plane, *, activates: bool = True, overwrites: bool = False
    ) -> Plane:
        """Normalise; PyTorch's kernel needs memory of its own."""
        normed = norm(plane.hidden)
        return Plane(F.silu(normed, inplace=True) if activates else normed)

    def gather(self, plane: Plane, num_groups: int) -> GroupMoments:
        """Gather the moments of groups of channels."""
        return gather_moments(plane.hidden, num_groups)

    def norm_with(self, plane: Plane, channels: ChannelMap, *, overwrites: bool = False) -> Plane:
        """Apply a norm whose statistics are known, and SiLU, in memory of its own."""
        normed = torch.addcmul(
            channels.term[:, None, None], plane.hidden, channels.factor[:, None, None]
        )
        return Plane(F.silu(normed.to(plane.hidden.dtype), inplace=True))

    def add(self, plane: Plane, residual: Plane) -> Plane:
        """Add in the place of `plane`."""
        return Plane(plane.hidden.add_(residual.hidden))

    def attend(self, attention: Any, plane: Plane) -> Plane:
        """Apply attention."""
        if self._attends_in_chunks:
            return Plane(attend_plane(attention, plane.hidden))
        return Plane(attention(plane.hidden))

    def upsample(self, upsampler: Any, plane: Plane) -> Plane:
        """Double both sides, and convolve."""
        return Plane(upsampler(plane.hidden))

    def finish(self, conv: nn.Conv2d, plane: Plane) -> Tensor:
        """Apply the convolution to colours."""
        colours: Tensor = conv(plane.hidden)
        return colours


def build_fused_ops(vae: Any) -> PlaneOps:
    """Return fused operations of a diffusers `AutoencoderKL`, which need Triton."""
    # Its kernels come with CUDA builds only.
    from pipeline.vae.fused_planes import FusedPlaneOps

    return FusedPlaneOps(vae.decoder)
