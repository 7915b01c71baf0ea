"""Whether the service has proved that it can draw."""

import asyncio
import time
from typing import Final, Literal

from deployments.errors import ApiError
from deployments.generation import SOFTWARE
from deployments.log import logger
from deployments.stages import FileOrder, Stages, take_latents
from pipeline.errors import PipelineError
from pipeline.image_file import OutputFormat
from pipeline.provenance import ImageProvenance
from pipeline.request import DenoiseRequest, ImageSize, RenderPath

_WARM_UP_SIZE: Final = ImageSize(64, 64)
_RETRY_S: Final = 2.0


class Readiness:
    """Draws one small picture through each pool, and remembers that it came out."""

    def __init__(
        self, stages: Stages, pools: tuple[str, ...], *, timeout_s: float, holds_start: bool = False
    ) -> None:
        self._stages = stages
        self._timeout_s = timeout_s
        self._holds_start = holds_start
        self._is_ready = dict.fromkeys(pools, False)
        self._has_drawn = asyncio.Event()
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pools(self) -> dict[str, bool]:
        """Whether each pool has drawn a picture."""
        return dict(self._is_ready)

    @property
    def status(self) -> Literal["starting", "ready", "stopping"]:
        """Where the service stands: ready once any pool has drawn, until it stops."""
        if self._is_stopping:
            return "stopping"
        return "ready" if any(self._is_ready.values()) else "starting"

    async def start(self) -> None:
        """Warm up every pool in the background, for as long as it takes.

        Returns once a picture has come out of any, if it is to hold the start.
        """
        self._tasks = [asyncio.create_task(self._warm_up(pool)) for pool in self._is_ready]
        if not self._holds_start:
            return
        try:
            await self._has_drawn.wait()
        except asyncio.CancelledError:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop warming up; nothing is ready any more."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()

    async def _warm_up(self, pool: str) -> None:
        while not self._is_ready[pool]:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._draw(pool)
            except (TimeoutError, PipelineError, ApiError) as exc:
                logger.warning("pool %s could not draw yet: %s", pool, exc or "timed out")
            except Exception:  # noqa: BLE001 - a router that stops trying may never start
                logger.exception("pool %s could not draw yet", pool)
            else:
                self._is_ready[pool] = True
                self._has_drawn.set()
                return
            await asyncio.sleep(_RETRY_S)

    async def _draw(self, pool: str) -> None:
        encoded = await self._stages.encode("warm up")
        request = DenoiseRequest(
            id=f"warm-up-{pool}-{time.monotonic_ns()}",
            encoding=encoded.encoding,
            size=_WARM_UP_SIZE,
            seed=0,
            num_inference_steps=1,
        )
        denoised = await take_latents(self._stages.denoise(pool, request))
        file = _warm_up_file(denoised.fingerprint)
        await self._stages.decode(denoised.result.latents, file)


def _warm_up_file(fingerprint: str) -> FileOrder:
    provenance = ImageProvenance(
        software=SOFTWARE,
        request_id="warm-up",
        model="warm-up",
        model_revision="warm-up",
        seed=0,
        size=_WARM_UP_SIZE,
        num_inference_steps=1,
        path=RenderPath.FULL_IMAGE,
        fingerprint=fingerprint,
    )
    return FileOrder(OutputFormat.PNG, None, provenance)
