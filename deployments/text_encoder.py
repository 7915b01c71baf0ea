"""A text encoder behind a handle."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cluster.spans import Carrier
from deployments.stage_telemetry import StageTelemetry
from deployments.stages import Encoded, Refusal
from pipeline.errors import InvalidRequestError
from pipeline.stages import TextEncoder


class TextEncoderDeployment:
    """Runs the encoder on one thread of its own, so that the event loop stays free."""

    def __init__(
        self, load: Callable[[], TextEncoder], telemetry: StageTelemetry | None = None
    ) -> None:
        self._telemetry = telemetry or StageTelemetry("encode")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="text-encoder")
        self._text_encoder = self._telemetry.start(lambda: self._thread.submit(load).result())

    async def encode(self, prompt: str, trace: Carrier | None = None) -> Encoded | Refusal:
        """Encode one prompt, or say why not."""
        loop = asyncio.get_running_loop()
        try:
            with self._telemetry.span(trace, {}) as stage:
                return await loop.run_in_executor(self._thread, stage.run, self._encode, prompt)
        except InvalidRequestError as exc:
            return Refusal(str(exc))

    def _encode(self, prompt: str) -> Encoded:
        started = time.monotonic()
        encoding = self._text_encoder.encode(prompt)
        return Encoded(encoding, time.monotonic() - started)
