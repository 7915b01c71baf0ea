"""A card's VAE decoder as a Ray actor: alone with a picture, or with a share of its tiles."""

import time
from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from torch import Tensor
from true_size import build_vae

from pipeline.acceleration.options import BlockKernels
from pipeline.device import choose_device
from pipeline.device_memory import cap_memory, mark_peak_memory, read_peak_memory
from pipeline.vae.fitting import FittingVaeDecoder
from pipeline.vae.moments import GroupMoments, merge_moments
from pipeline.vae.planes import build_fused_ops
from pipeline.vae.tiled import (
    ALL_ON_DEVICE,
    TiledVaeDecoder,
    TileShare,
    VaeTilingOptions,
    cut_window,
    join_pixels,
)
from pipeline.vae.tiles import DecodeTile
from pipeline.vae_decoder import to_uint8


class VaeCard:
    """Holds one decoder under a cap; every card runs what sees the whole plane by itself."""

    def __init__(self, *, is_tiny: bool, cap_gib: float) -> None:
        compute = choose_device("cpu" if is_tiny else "cuda", num_threads=1)
        vae = build_vae(compute.device, compute.dtype, is_tiny=is_tiny)
        has_gpu = compute.device.type == "cuda"
        if has_gpu:
            torch.cuda.empty_cache()
            cap_memory(compute.device, cap_gib)
        kernels = BlockKernels.FUSED if has_gpu else BlockKernels.MODULES
        options = VaeTilingOptions(
            tile_size=8 if is_tiny else 64, device_bytes_per_latent=ALL_ON_DEVICE
        )
        self._tiled = TiledVaeDecoder(vae, options, build_fused_ops(vae) if has_gpu else None)
        self._whole = FittingVaeDecoder(vae, kernels=kernels)
        self._share: TileShare | None = None

    def plan(self, latents: Tensor) -> tuple[DecodeTile, ...]:
        return self._tiled.plan(latents)

    def decode_whole(self, latents: Tensor) -> Tensor:
        return self._whole.decode(latents)

    def decode_tiled(self, latents: Tensor) -> Tensor:
        return self._tiled.decode(latents)

    def start(self, latents: Tensor, tiles: tuple[DecodeTile, ...]) -> list[GroupMoments]:
        mark_peak_memory()
        share = self._share = self._tiled.open_share()
        plane = self._tiled.run_whole(latents)
        return share.start(tiles, [cut_window(plane, tile) for tile in tiles])

    def advance(self, moments: GroupMoments) -> tuple[bool, list[GroupMoments]]:
        """Return whether every tile is pixels, and the moments if not."""
        assert self._share is not None
        gathered = self._share.advance(moments)
        return self._share.is_done, gathered

    def pixels(self) -> list[Tensor]:
        assert self._share is not None
        return self._share.pixels(to_uint8)

    def peak_bytes(self) -> int | None:
        return read_peak_memory()


def decode_spread(cards: list[ActorHandle[Any]], latents: Tensor, *, within_s: float) -> Tensor:
    """Decode one picture with its tiles spread evenly over the cards, in order."""
    deadline = time.monotonic() + within_s

    def get(references: list[Any]) -> list[Any]:
        answers: list[Any] = ray.get(references, timeout=max(0.1, deadline - time.monotonic()))
        return answers

    [tiles] = get([cards[0].plan.remote(latents)])
    size = -(-len(tiles) // len(cards))
    shares = [tiles[index * size : (index + 1) * size] for index in range(len(cards))]
    sent = ray.put(latents)
    parts = get([card.start.remote(sent, own) for card, own in zip(cards, shares, strict=True)])
    is_done = False
    while not is_done:
        merged = merge_moments([moments for part in parts for moments in part])
        answers = get([card.advance.remote(merged) for card in cards])
        is_done, parts = answers[0][0], [part for _, part in answers]
    cores = get([card.pixels.remote() for card in cards])
    height, width = latents.shape[-2:]
    return join_pixels(tiles, [core for each in cores for core in each], height, width)
