"""The up blocks of diffusers' VAE decoder, cut at every GroupNorm.

A segment begins with a GroupNorm, whose statistics are the whole picture's, and ends where the next
one needs statistics. Between segments a tile is nothing but its state, which can be parked, and
tiles can be anywhere as long as they exchange moments.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from pipeline.vae.moments import ChannelMap
from pipeline.vae.planes import Plane, PlaneOps
from pipeline.vae.tiles import Margins


@dataclass(frozen=True, eq=False)
class TileState:
    """A tile between two segments."""

    hidden: Plane
    """Margins included."""
    residual: Plane | None
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
        planes = [self.hidden] if self.residual is None else [self.hidden, self.residual]
        return sum(plane.hidden.nbytes for plane in planes)

    @property
    def core(self) -> Plane:
        """The hidden state without its margins."""
        return _trim(self.hidden, self.margins, Margins(0, 0, 0, 0))


class Segment(Protocol):
    """From one GroupNorm to the next."""

    norm: nn.GroupNorm

    def reach(self, margin: int) -> int:
        """Return the margin that the segment needs to leave `margin` right pixels behind."""
        ...

    def run(self, state: TileState, channels: ChannelMap) -> TileState:
        """Take a tile through the segment, whose norm has the whole picture's statistics."""
        ...


class ResnetEntry:
    """First half of a resnet block: norm, SiLU, convolution."""

    def __init__(self, resnet: Any, ops: PlaneOps) -> None:
        self.norm: nn.GroupNorm = resnet.norm1
        self._resnet = resnet
        self._ops = ops

    def reach(self, margin: int) -> int:
        """Return `margin` and the pixel of a 3x3 convolution."""
        return margin + 1

    def run(self, state: TileState, channels: ChannelMap) -> TileState:
        """Open the resnet; its shortcut is taken here, where it may have fewer channels."""
        ops, shortcut = self._ops, self._resnet.conv_shortcut
        residual = state.hidden if shortcut is None else ops.convolve(shortcut, state.hidden)
        hidden = ops.convolve(self._resnet.conv1, ops.norm_with(state.hidden, channels))
        return TileState(hidden, residual, state.margins)


class ResnetExit:
    """Second half of a resnet block, and the upsampler where the up block ends."""

    def __init__(self, resnet: Any, upsampler: Any | None, ops: PlaneOps) -> None:
        self.norm: nn.GroupNorm = resnet.norm2
        self._resnet = resnet
        self._upsampler = upsampler
        self._ops = ops

    def reach(self, margin: int) -> int:
        """Return `margin`, at half the resolution after an upsampler, and a pixel a convolution."""
        below = margin if self._upsampler is None else (margin + 2) // 2
        return below + 1

    def run(self, state: TileState, channels: ChannelMap) -> TileState:
        """Close the resnet, and upsample."""
        ops = self._ops
        normed = ops.norm_with(state.hidden, channels, overwrites=True)
        hidden = ops.convolve(self._resnet.conv2, normed)
        if state.residual is not None:
            hidden = ops.add(hidden, state.residual)
        if self._upsampler is None:
            return TileState(hidden, None, state.margins)
        return TileState(ops.upsample(self._upsampler, hidden), None, state.margins.doubled())


class Output:
    """The last norm, SiLU and the convolution to colours."""

    def __init__(self, decoder: Any, ops: PlaneOps) -> None:
        self.norm: nn.GroupNorm = decoder.conv_norm_out
        self._conv = decoder.conv_out
        self._ops = ops

    def reach(self, margin: int) -> int:
        """Return `margin` and the pixel of a 3x3 convolution."""
        return margin + 1

    def run(self, state: TileState, channels: ChannelMap) -> TileState:
        """Turn the last hidden state into pixels."""
        normed = self._ops.norm_with(state.hidden, channels, overwrites=True)
        return TileState(Plane(self._ops.finish(self._conv, normed)), None, state.margins)


def build_segments(decoder: Any, ops: PlaneOps) -> tuple[Segment, ...]:
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
            segments += [
                ResnetEntry(resnet, ops),
                ResnetExit(resnet, upsampler if is_last else None, ops),
            ]
    return (*segments, Output(decoder, ops))


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


def _trim(plane: Plane, margins: Margins, wanted: Margins) -> Plane:
    height, width = plane.hidden.shape[-2:]
    top, left = margins.top - wanted.top, margins.left - wanted.left
    bottom, right = margins.bottom - wanted.bottom, margins.right - wanted.right
    return plane.window(slice(top, height - bottom), slice(left, width - right))
