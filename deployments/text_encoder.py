"""A text encoder behind a handle."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from deployments.stages import Encoded
from pipeline.stages import TextEncoder


class TextEncoderDeployment:
    """Runs the encoder on one thread of its own, so that the event loop stays free."""

    def __init__(self, load: Callable[[], TextEncoder]) -> None:
        self._text_encoder = load()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="text-encoder")

    async def encode(self, prompt: str) -> Encoded:
        """Encode one prompt."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._encode, prompt)

    def _encode(self, prompt: str) -> Encoded:
        started = time.monotonic()
        encoding = self._text_encoder.encode(prompt)
        return Encoded(encoding, time.monotonic() - started)
