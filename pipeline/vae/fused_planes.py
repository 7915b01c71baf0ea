"""A decoder's operations for NVIDIA GPUs, with channels lying together from end to end.

Convolutions are cuDNN's, without a bias: adding it would be one more pass over the plane, so it
waits for the pass that comes anyway. That pass also gathers the next norm's statistics.
"""

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.vae.mid_block import attend_in_chunks
from pipeline.vae.moments import ChannelMap, GroupMoments
from pipeline.vae.planes import Plane
from pipeline.vae.triton_planes import (
    MomentParts,
    add_and_gather,
    apply,
    gather,
    interleave_and_gather,
    merge,
    softmax,
    subpixel_weight,
)

_COLOUR_MULTIPLE: Final = 8
"""Output channels that tensor cores take."""


class FusedPlaneOps:
    """Holds a decoder's convolution weights as the kernels read them, beside the modules'."""

    def __init__(self, decoder: Any) -> None:
        upsamplers = [
            upsampler for block in decoder.up_blocks for upsampler in block.upsamplers or ()
        ]
        self._weights = {
            module: module.weight.contiguous(memory_format=torch.channels_last)
            for module in decoder.modules()
            if isinstance(module, nn.Conv2d)
        }
        for upsampler in upsamplers:
            self._weights[upsampler.conv] = subpixel_weight(upsampler.conv.weight)
        self._weights[decoder.conv_out] = _pad_outputs(decoder.conv_out.weight)

    def convolve(self, conv: nn.Conv2d, plane: Plane) -> Plane:
        """Apply a convolution, its bias left to the next operation."""
        return Plane(self._convolve(conv, _settle(plane), padding=conv.padding), conv.bias)

    def norm(
        self, norm: nn.GroupNorm, plane: Plane, *, activates: bool = True, overwrites: bool = False
    ) -> Plane:
        """Normalise, and apply SiLU unless told otherwise, in one pass after the statistics'."""
        parts: MomentParts = plane.moments or gather(plane.hidden, plane.bias)
        factor, term = merge(parts, norm, plane.bias)
        return Plane(apply(plane.hidden, factor, term, activates=activates, overwrites=overwrites))

    def gather(self, plane: Plane, num_groups: int) -> GroupMoments:
        """Gather the moments of groups of channels, of a window as of a whole plane."""
        return gather(plane.hidden, plane.bias).to_groups(num_groups)

    def norm_with(self, plane: Plane, channels: ChannelMap, *, overwrites: bool = False) -> Plane:
        """Apply a norm whose statistics are known, and SiLU, in one pass."""
        factor, term = channels.factor, channels.term
        if plane.bias is not None:
            term = torch.addcmul(term, factor, plane.bias)
        return Plane(apply(plane.hidden, factor, term, activates=True, overwrites=overwrites))

    def add(self, plane: Plane, residual: Plane) -> Plane:
        """Add in the place of `plane`, with both biases."""
        hidden, parts = add_and_gather(plane.hidden, residual.hidden, plane.bias, residual.bias)
        return Plane(hidden, moments=parts)

    def attend(self, attention: Any, plane: Plane) -> Plane:
        """Attend with a chunk of queries at a time."""
        normed = self.norm(attention.group_norm, plane, activates=False).hidden
        _, num_channels, height, width = normed.shape
        rows = normed.permute(0, 2, 3, 1).reshape(-1, num_channels)
        query, key, value = attention.to_q(rows), attention.to_k(rows), attention.to_v(rows)
        attended = attend_in_chunks(query, key, value, softmax=softmax)
        projected = attention.to_out[0](attended)
        update = projected.view(1, height, width, num_channels).permute(0, 3, 1, 2)
        return self.add(Plane(update), plane)

    def upsample(self, upsampler: Any, plane: Plane) -> Plane:
        """Convolve the small plane into the four phases of the doubled one, and weave them."""
        phases = self._convolve(upsampler.conv, _settle(plane), padding=(1, 1))
        hidden, parts = interleave_and_gather(phases, upsampler.conv.bias)
        return Plane(hidden, moments=parts)

    def finish(self, conv: nn.Conv2d, plane: Plane) -> Tensor:
        """Apply the convolution to colours, which is padded to what tensor cores take."""
        padded = self._convolve(conv, _settle(plane), padding=conv.padding)
        colours = padded[:, : conv.out_channels]
        return colours if conv.bias is None else colours + conv.bias[:, None, None]

    def _convolve(self, conv: nn.Conv2d, hidden: Tensor, *, padding: Any) -> Tensor:
        hidden = hidden.contiguous(memory_format=torch.channels_last)
        return F.conv2d(hidden, self._weights[conv], padding=padding)


def _settle(plane: Plane) -> Tensor:
    return plane.hidden if plane.bias is None else plane.hidden + plane.bias[:, None, None]


def _pad_outputs(weight: Tensor) -> Tensor:
    lacking = -weight.shape[0] % _COLOUR_MULTIPLE
    padded = torch.cat([weight, weight.new_zeros(lacking, *weight.shape[1:])])
    return padded.contiguous(memory_format=torch.channels_last)
