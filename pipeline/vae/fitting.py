"""A VAE decoder that knows its memory: in one piece where that fits, in tiles above."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from pipeline.errors import OutOfMemoryError
from pipeline.memory import DecodeMode, choose_decode
from pipeline.request import LATENT_SCALE, ImageSize
from pipeline.vae.tiled import TiledVaeDecoder, VaeTilingOptions
from pipeline.vae_decoder import FullImageVaeDecoder


class FittingVaeDecoder:
    """A `VaeDecoder` within a budget; equal sizes are always decoded in the same way."""

    def __init__(
        self,
        vae: AutoencoderKL,
        *,
        mode: DecodeMode = DecodeMode.AUTO,
        budget_gib: float | None = None,
        options: VaeTilingOptions | None = None,
    ) -> None:
        self._full = FullImageVaeDecoder(vae)
        self._tiled = TiledVaeDecoder(vae, options)
        self._mode = mode
        self._budget_gib = budget_gib

    def decode(self, latents: Tensor) -> Tensor:
        """Decode [1, 16, H/8, W/8] float32 latents into [H, W, 3] uint8 pixels on the CPU.

        Raises:
            InvalidRequestError: If the picture is too large for the budget.
            OutOfMemoryError: If it does not fit on the device although it should.
        """
        height, width = latents.shape[-2:]
        size = ImageSize(height * LATENT_SCALE, width * LATENT_SCALE)
        if choose_decode(size, self._mode, budget_gib=self._budget_gib) is DecodeMode.FULL_IMAGE:
            return self._full.decode(latents)
        try:
            return self._tiled.decode(latents)
        except torch.OutOfMemoryError as exc:
            raise OutOfMemoryError(f"decoding {size} in tiles did not fit") from exc
