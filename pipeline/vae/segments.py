"""The up blocks of diffusers' VAE decoder, cut at every GroupNorm.

A segment begins with a GroupNorm, whose statistics are the whole picture's, and ends where the next
one needs statistics. Between segments a tile is nothing but its state, which can be parked, and
tiles can be anywhere as long as they exchange moments.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.vae.moments import GroupMoments, normalise
from pipeline.vae.tiles import Margins


@dataclass(frozen=True, eq=False)
class TileState:
    """A tile between two segments."""

    hidden: Tensor
    """[1, C, h, w], margins included."""
    residual: Tensor | None
    """What the open resnet adds at its end."""
    margins: Margins

    def trimmed(self, pixels: int) -> "TileState":
        """Cut margins down to `pixels`."""
        margins = self.margins.limited(pixels)
        residual = self.residual
        return TileState(
            _trim(self.hidden, self.margins, margins),
            None if residual is None else _trim(residual, self.margins, margins),
            margins,
        )

    @property
    def nbytes(self) -> int:
        """Bytes that the state takes."""
        return self.hidden.nbytes + (0 if self.residual is None else self.residual.nbytes)

    @property
    def core(self) -> Tensor:
        """The hidden state without its margins."""
        return _trim(self.hidden, self.margins, Margins(0, 0, 0, 0))


class Segment(Protocol):
    """From one GroupNorm to the next."""

    norm: nn.GroupNorm

    def reach(self, margin: int) -> int:
        """Return the margin that the segment needs to leave `margin` right pixels behind."""
        ...

    def run(self, state: TileState, moments: GroupMoments) -> TileState:
        """Take a tile through the segment."""
        ...


class ResnetEntry:
    """First half of a resnet block: norm, SiLU, convolution."""

    def __init__(self, resnet: Any) -> None:
        self.norm: nn.GroupNorm = resnet.norm1
        self._resnet = resnet

    def reach(self, margin: int) -> int:
        """Return `margin` and the pixel of a 3x3 convolution."""
        return margin + 1

    def run(self, state: TileState, moments: GroupMoments) -> TileState:
        """Open the resnet; its shortcut is taken here, where it may have fewer channels."""
        shortcut = self._resnet.conv_shortcut
        residual = state.hidden if shortcut is None else shortcut(state.hidden)
        hidden = self._resnet.conv1(_activate(state.hidden, self.norm, moments))
        return TileState(hidden, residual, state.margins)


class ResnetExit:
    """Second half of a resnet block, and the upsampler where the up block ends."""

    def __init__(self, resnet: Any, upsampler: Any | None) -> None:
        self.norm: nn.GroupNorm = resnet.norm2
        self._resnet = resnet
        self._upsampler = upsampler

    def reach(self, margin: int) -> int:
        """Return `margin`, at half the resolution after an upsampler, and a pixel a convolution."""
        below = margin if self._upsampler is None else (margin + 2) // 2
        return below + 1

    def run(self, state: TileState, moments: GroupMoments) -> TileState:
        """Close the resnet, and upsample."""
        hidden = self._resnet.conv2(_activate(state.hidden, self.norm, moments))
        hidden += state.residual
        if self._upsampler is None:
            return TileState(hidden, None, state.margins)
        return TileState(self._upsampler(hidden), None, state.margins.doubled())


class Output:
    """The last norm, SiLU and the convolution to colours."""

    def __init__(self, decoder: Any) -> None:
        self.norm: nn.GroupNorm = decoder.conv_norm_out
        self._conv = decoder.conv_out

    def reach(self, margin: int) -> int:
        """Return `margin` and the pixel of a 3x3 convolution."""
        return margin + 1

    def run(self, state: TileState, moments: GroupMoments) -> TileState:
        """Turn the last hidden state into pixels."""
        return TileState(
            self._conv(_activate(state.hidden, self.norm, moments)), None, state.margins
        )


def build_segments(decoder: Any) -> tuple[Segment, ...]:
    """Cut the up blocks and the output of a diffusers `Decoder` into segments.

    Raises:
        ValueError: If the decoder is not made of SiLU, GroupNorm and plain resnets.
    """
    segments: list[Segment] = []
    for block in decoder.up_blocks:
        upsampler = None if block.upsamplers is None else block.upsamplers[0]
        for resnet in block.resnets:
            require_plain(resnet)
            is_last = resnet is block.resnets[-1]
            segments += [ResnetEntry(resnet), ResnetExit(resnet, upsampler if is_last else None)]
    return (*segments, Output(decoder))


def plan_margins(segments: tuple[Segment, ...]) -> tuple[int, ...]:
    """Return the margin that each segment needs, in pixels of its own resolution."""
    needed = [0]
    for segment in reversed(segments):
        needed.append(segment.reach(needed[-1]))
    return tuple(reversed(needed[1:]))


def require_plain(resnet: Any) -> None:
    """Refuse a resnet of another kind.

    Raises:
        ValueError: If it is not made of GroupNorm, SiLU and convolutions.
    """
    is_plain = (
        isinstance(resnet.norm1, nn.GroupNorm)
        and isinstance(resnet.nonlinearity, nn.SiLU)
        and resnet.time_emb_proj is None
        and resnet.output_scale_factor == 1
    )
    if not is_plain:
        raise ValueError(f"resnets must be GroupNorm, SiLU and convolutions, got {resnet}")


def _activate(hidden: Tensor, norm: nn.GroupNorm, moments: GroupMoments) -> Tensor:
    return F.silu(normalise(hidden, norm, moments), inplace=True)


def _trim(hidden: Tensor, margins: Margins, wanted: Margins) -> Tensor:
    height, width = hidden.shape[-2:]
    top, left = margins.top - wanted.top, margins.left - wanted.left
    bottom, right = margins.bottom - wanted.bottom, margins.right - wanted.right
    return hidden[..., top : height - bottom, left : width - right]
