"""A VAE decoder behind a handle; it encodes the file, so that no raw pixels cross one."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from deployments.decoding import decode_to_file
from deployments.stages import FileOrder, ImageFile
from pipeline.stages import VaeDecoder


class VaeDecoderDeployment:
    """Runs the decoder on one thread of its own, so that the event loop stays free."""

    def __init__(self, load: Callable[[], VaeDecoder]) -> None:
        self._vae_decoder = load()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vae-decoder")

    async def decode(self, latents: Tensor, order: FileOrder) -> ImageFile:
        """Decode latents and encode the file."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, decode_to_file, self._vae_decoder, latents, order
        )
