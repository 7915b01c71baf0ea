"""A VAE decoder that knows its memory: in one piece where that fits, in tiles above."""

from dataclasses import replace
from typing import Final

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from pipeline.acceleration.options import KERNELS_REVISION, BlockKernels
from pipeline.errors import OutOfMemoryError
from pipeline.memory import VAE_TILED, VAE_WHOLE, DecodeMode, choose_decode
from pipeline.request import LATENT_SCALE, PATCH_SIZE, ImageSize
from pipeline.vae.planes import build_fused_ops
from pipeline.vae.tiled import ALL_ON_DEVICE, TiledVaeDecoder, VaeTilingOptions
from pipeline.vae_decoder import MAX_RECORDED_LATENTS, FullImageVaeDecoder, compute_of

_RECORDINGS_GIB: Final = VAE_WHOLE[BlockKernels.FUSED].peak_gib(
    MAX_RECORDED_LATENTS // PATCH_SIZE**2
)
"""Most that recorded graphs take."""
_USABLE_SHARE: Final = 0.9
"""Of a budget that tiles may fill: the rest is what the allocator cuts away."""


class FittingVaeDecoder:
    """A `VaeDecoder` within a budget; equal sizes are always decoded in the same way."""

    def __init__(
        self,
        vae: AutoencoderKL,
        *,
        mode: DecodeMode = DecodeMode.AUTO,
        kernels: BlockKernels = BlockKernels.MODULES,
        budget_gib: float | None = None,
        options: VaeTilingOptions | None = None,
    ) -> None:
        self._vae = vae
        self._compute = compute_of(vae)
        self._mode = mode
        self._kernels = kernels
        self._budget_gib = budget_gib
        self._options = options or VaeTilingOptions()
        self._ops = build_fused_ops(vae) if kernels is BlockKernels.FUSED else None
        self._full = FullImageVaeDecoder(vae, self._ops, records=self._has_room_to_record())
        TiledVaeDecoder(vae, self._options, self._ops)  # options that do not do are refused here

    def fingerprint(self, size: ImageSize) -> str:
        """Name everything beside the latents that decides the pixels of a picture of the size.

        Raises:
            InvalidRequestError: If the picture is too large for the budget.
        """
        compute = self._compute
        parts = [self._choose(size), self._kernels, compute.accelerator, compute.precision]
        if compute.device.type == "cpu":
            parts.append(f"threads-{torch.get_num_threads()}")
        else:
            parts.append(f"kernels-{KERNELS_REVISION}")
        return "/".join(parts)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode [1, 16, H/8, W/8] float32 latents into [H, W, 3] uint8 pixels on the CPU.

        Raises:
            InvalidRequestError: If the picture is too large for the budget.
            OutOfMemoryError: If it does not fit on the device although it should.
        """
        height, width = latents.shape[-2:]
        size = ImageSize(height * LATENT_SCALE, width * LATENT_SCALE)
        mode = self._choose(size)
        self._make_room(size, mode)
        if mode is DecodeMode.FULL_IMAGE:
            return self._full.decode(latents)
        try:
            return self._open_tiled(size).decode(latents)
        except torch.OutOfMemoryError as exc:
            raise OutOfMemoryError(f"decoding {size} in tiles did not fit") from exc

    def _choose(self, size: ImageSize) -> DecodeMode:
        return choose_decode(size, self._mode, budget_gib=self._budget_gib, kernels=self._kernels)

    def _has_room_to_record(self) -> bool:
        """Record only where the largest recorded picture may also be decoded directly."""
        has_room = self._budget_gib is None or self._budget_gib >= 2 * _RECORDINGS_GIB
        is_cuda = self._compute.device.type == "cuda"
        return has_room and self._kernels is BlockKernels.FUSED and is_cuda

    def _make_room(self, size: ImageSize, mode: DecodeMode) -> None:
        if self._budget_gib is None:
            return
        peak_gib = VAE_WHOLE[self._kernels].peak_gib(size.num_image_tokens)
        if mode is DecodeMode.TILED or peak_gib + _RECORDINGS_GIB > self._budget_gib:
            self._full.forget_recordings()

    def _open_tiled(self, size: ImageSize) -> TiledVaeDecoder:
        waiting = plan_waiting(size, self._options, budget_gib=self._budget_gib)
        options = replace(self._options, device_bytes_per_latent=waiting)
        return TiledVaeDecoder(self._vae, options, self._ops)


def plan_waiting(size: ImageSize, options: VaeTilingOptions, *, budget_gib: float | None) -> int:
    """Return the bytes a latent of tiles that wait on the device: what the budget leaves.

    What waits on the host is copied there and back at each norm, which takes longer than the norm.
    """
    if budget_gib is None:
        return ALL_ON_DEVICE
    room_gib = _USABLE_SHARE * budget_gib - VAE_TILED.fixed_gib
    num_latents = size.num_image_tokens * PATCH_SIZE**2
    return max(options.device_bytes_per_latent, int(room_gib * 2**30 / num_latents))
