"""A denoiser behind a handle."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

from deployments.stages import Denoised
from pipeline.request import DenoiseRequest, DenoiseResult, StepEvent
from pipeline.stages import Denoiser


class DenoiserDeployment:
    """Runs the denoiser on one thread of its own, so that the event loop stays free."""

    def __init__(
        self, load: Callable[[], tuple[Denoiser, str]], name_replica: Callable[[], str]
    ) -> None:
        self._denoiser, self._fingerprint = load()
        self._replica = name_replica()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="denoiser")

    async def denoise(
        self, request: DenoiseRequest, *, yields_steps: bool
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        """Yield a `StepEvent` a step, if asked to, and the latents at the end."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[StepEvent | None] = asyncio.Queue()

        def on_step(event: StepEvent) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def run() -> DenoiseResult:
            try:
                return self._denoiser.denoise(request, on_step)
            finally:
                loop.call_soon_threadsafe(events.put_nowait, None)

        running = loop.run_in_executor(self._thread, run)
        while (event := await events.get()) is not None:
            if yields_steps:
                yield event
        yield Denoised(await running, self._fingerprint, self._replica)
