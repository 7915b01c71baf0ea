"""Decode latents tile by tile, without seams: as exact as float arithmetic allows.

`conv_in` and the mid block see the whole plane, for attention is global there. The up blocks run in
tiles whose halo exceeds what their convolutions reach, in lock-step: each tile runs to the next
GroupNorm, gives the moments of its core, and goes on with those of the whole picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.vae.moments import ChannelMap, GroupMoments, merge_moments
from pipeline.vae.network import DecoderNetwork
from pipeline.vae.parking import ParkedState
from pipeline.vae.planes import Plane, PlaneOps, TorchPlaneOps
from pipeline.vae.segments import TileState, build_segments, plan_margins
from pipeline.vae.tiles import DecodeTile, plan_decode_tiles
from pipeline.vae_decoder import compute_of, to_uint8, to_vae_scale

DEVICE_BYTES_PER_LATENT: Final = 10 * 1024
"""What may wait on the device: 2.5 GiB at 4096x4096, and less with the area."""

ALL_ON_DEVICE: Final = 64 * 1024
"""More than the true VAE's tiles ever take a latent, so nothing is copied to the host: the peak is
9 GiB at 4096x4096, for a card that holds nothing else."""


@dataclass(frozen=True)
class VaeTilingOptions:
    """How the decoder cuts a picture; `tile_size` and `halo` are latent pixels.

    Raises:
        ValueError: If a setting is out of range.
    """

    tile_size: int = 64
    halo: int = 16
    device_bytes_per_latent: int = DEVICE_BYTES_PER_LATENT
    """Of tiles that wait, a latent pixel of the picture; more waits on the host."""

    def __post_init__(self) -> None:
        if self.tile_size < 1:
            raise ValueError(f"tile_size must be at least 1, got {self.tile_size}")
        if self.halo < 0 or self.device_bytes_per_latent < 0:
            raise ValueError(f"halo and device_bytes_per_latent must not be negative, got {self}")


class TileShare:
    """The tiles of one picture that one card decodes: `start`, `advance` to the end, `pixels`."""

    def __init__(
        self, decoder: Any, ops: PlaneOps, options: VaeTilingOptions | None = None
    ) -> None:
        options = options or VaeTilingOptions()
        self._ops = ops
        self._segments = build_segments(decoder, ops)
        self._margins = plan_margins(self._segments)
        if options.halo < self._margins[0]:
            raise ValueError(f"halo must be at least {self._margins[0]}, got {options.halo}")
        self._device_bytes_per_latent = options.device_bytes_per_latent
        self._tiles: tuple[DecodeTile, ...] = ()
        self._parked: list[ParkedState] = []
        self._next = 0

    @property
    def is_done(self) -> bool:
        """Whether every tile has become pixels."""
        return self._next == len(self._segments)

    @torch.inference_mode()
    def start(self, tiles: Sequence[DecodeTile], windows: Sequence[Plane]) -> list[GroupMoments]:
        """Take windows of the mid block's output; return their moments."""
        self._tiles, self._next = tuple(tiles), 0
        states = [
            TileState(window, None, tile.margins)
            for tile, window in zip(tiles, windows, strict=True)
        ]
        self._parked = [ParkedState.park(state, on_host=False) for state in states]
        return [self._gather(state).to_cpu() for state in states]

    @torch.inference_mode()
    def advance(self, moments: GroupMoments) -> list[GroupMoments]:
        """Run every tile to the next GroupNorm with the whole picture's moments.

        Returns:
            The moments of each tile there; after the last segment, none.
        """
        segment, margin = self._segments[self._next], self._margins[self._next]
        self._next += 1
        channels = ChannelMap.of_norm(segment.norm, moments)
        gathered = []
        for index, tile in enumerate(self._tiles):
            state = segment.run(self._parked[index].fetch().trimmed(margin), channels)
            self._parked[index] = self._park(state, tile)
            if not self.is_done:
                gathered.append(self._gather(state))
        # On the CPU only now: waiting for each tile in turn would leave the device idle.
        return [part.to_cpu() for part in gathered]

    @torch.inference_mode()
    def pixels(self, to_pixels: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Return the core of each tile, [H, W, 3] out of [1, 3, H, W], and forget the tiles."""
        cores = [to_pixels(parked.fetch().core.hidden) for parked in self._parked]
        self._tiles, self._parked = (), []
        return cores

    def _gather(self, state: TileState) -> GroupMoments:
        return self._ops.gather(state.core, self._segments[self._next].norm.num_groups)

    def _park(self, state: TileState, tile: DecodeTile) -> ParkedState:
        room = self._device_bytes_per_latent * tile.height * tile.width
        return ParkedState.park(state, on_host=state.nbytes > room)


class TiledVaeDecoder:
    """Decodes latents of diffusers' `AutoencoderKL`, in tiles on one card."""

    def __init__(
        self, vae: Any, options: VaeTilingOptions | None = None, ops: PlaneOps | None = None
    ) -> None:
        self._vae = vae
        self._options = options or VaeTilingOptions()
        self._ops = ops or TorchPlaneOps(attends_in_chunks=True)
        self._network = DecoderNetwork(vae, self._ops)
        self.open_share()  # a decoder or an option that does not do is refused here

    def plan(self, latents: Tensor) -> tuple[DecodeTile, ...]:
        """Return the work list for [1, 16, h, w] latents."""
        height, width = latents.shape[-2:]
        options = self._options
        return plan_decode_tiles(height, width, tile_size=options.tile_size, halo=options.halo)

    def open_share(self) -> TileShare:
        """Return a share that runs the up blocks of any tiles on this card."""
        return TileShare(self._vae.decoder, self._ops, self._options)

    @torch.inference_mode()
    def run_whole(self, latents: Tensor) -> Plane:
        """Run what sees the whole plane of [1, 16, h, w] latents, on the device."""
        compute = compute_of(self._vae)
        scaled = to_vae_scale(latents.to(compute.device), self._vae)
        return self._network.open(scaled.to(compute.dtype))

    def decode_image(self, latents: Tensor) -> Tensor:
        """Decode [1, 16, h, w] latents into [H, W, 3] float32 on the CPU, about -1 to 1."""
        return self._decode(latents, to_float)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode [1, 16, H/8, W/8] float32 latents into [H, W, 3] uint8 pixels on the CPU."""
        return self._decode(latents, to_uint8)

    def _decode(self, latents: Tensor, to_pixels: Callable[[Tensor], Tensor]) -> Tensor:
        tiles, share = self.plan(latents), self.open_share()
        plane = self.run_whole(latents)
        gathered = share.start(tiles, [cut_window(plane, tile) for tile in tiles])
        del plane
        while not share.is_done:
            gathered = share.advance(merge_moments(gathered))
        height, width = latents.shape[-2:]
        return join_pixels(tiles, share.pixels(to_pixels), height, width)


def cut_window(plane: Plane, tile: DecodeTile) -> Plane:
    """Cut a tile's window out of the plane of latents."""
    rows, columns = tile.window
    return plane.window(rows, columns)


def join_pixels(
    tiles: Sequence[DecodeTile], pixels: Sequence[Tensor], height: int, width: int
) -> Tensor:
    """Put the cores of `height` x `width` latents together, [H, W, 3]."""
    scale = pixels[0].shape[1] // tiles[0].width
    image = pixels[0].new_empty(height * scale, width * scale, pixels[0].shape[2])
    for tile, core in zip(tiles, pixels, strict=True):
        image[tile.core(scale)] = core
    return image


def to_float(core: Tensor) -> Tensor:
    """Turn a [1, 3, H, W] core into [H, W, 3] float32 on the CPU, as it is."""
    return core[0].permute(1, 2, 0).float().cpu()
