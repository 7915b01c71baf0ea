"""A VAE decoder behind a handle; it encodes the file, so that no raw pixels cross one."""

import asyncio
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cluster.spans import Carrier
from cluster.telemetry import ATTR_NUM_BYTES, ATTR_SIZE
from deployments.decoding import decode_to_file
from deployments.stage_telemetry import StageTelemetry
from deployments.stages import DecodeRequest, ImageFile
from pipeline.stages import VaeDecoder


class VaeDecoderDeployment:
    """Runs the decoder on one thread of its own, so that the event loop stays free."""

    def __init__(
        self,
        load: Callable[[], VaeDecoder],
        telemetry: StageTelemetry | None = None,
        *,
        num_threads: int | None = None,
    ) -> None:
        self._num_threads = num_threads
        self._telemetry = telemetry or StageTelemetry("decode")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vae-decoder")
        self._vae_decoder = self._telemetry.start(lambda: self._thread.submit(load).result())

    async def decode(self, request: DecodeRequest, trace: Carrier | None = None) -> ImageFile:
        """Decode latents and encode the file."""
        latents, order = request.latents, request.order
        loop = asyncio.get_running_loop()
        with self._telemetry.span(trace, {ATTR_SIZE: str(order.provenance.size)}) as stage:
            file = await loop.run_in_executor(
                self._thread,
                stage.run,
                decode_to_file,
                self._vae_decoder,
                latents,
                order,
                self._num_threads,
            )
            stage.span.set_attribute(ATTR_NUM_BYTES, len(file.content))
        return dataclasses.replace(file, peak_memory_bytes=stage.peak_memory_bytes)
