"""Stages in replicas of a real Serve application, at a pace; a replica imports this by name."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from fakes import SteppedStages
from local_service import build_api_over
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from cluster.spans import Carrier
from deployments.config import AppConfig
from deployments.handles import HandleStages
from deployments.stages import DecodeRequest, Denoised, Encoded, ImageFile, take_latents
from pipeline.request import DenoiseRequest, StepEvent

STEP_S = 0.02


class PacedStages(SteppedStages):
    """All stages in one replica; a step takes 20 ms, as it does where the work is elsewhere."""

    async def denoise(
        self, pool: str, request: DenoiseRequest, *, yields_steps: bool = False
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        """Take a step every 20 ms."""
        async with contextlib.aclosing(super().denoise(pool, request)) as events:
            async for event in events:
                yield event
                await asyncio.sleep(STEP_S)


class PacedDeployment:
    """Stands for the denoiser, the text encoder and the VAE decoder, and keeps count."""

    def __init__(self) -> None:
        self._runs: list[PacedStages] = []

    async def encode(self, prompt: str, trace: Carrier | None = None) -> Encoded:
        return await PacedStages().encode(prompt)

    async def denoise(
        self, request: DenoiseRequest, *, yields_steps: bool, trace: Carrier | None = None
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        stages = PacedStages()
        stages.allow(request.num_inference_steps)
        self._runs.append(stages)
        async with contextlib.aclosing(stages.denoise("default", request)) as events:
            async for event in events:
                yield event

    async def denoise_silently(
        self, request: DenoiseRequest, trace: Carrier | None = None
    ) -> Denoised:
        return await take_latents(self.denoise(request, yields_steps=False))

    async def decode(self, request: DecodeRequest, trace: Carrier | None = None) -> ImageFile:
        return await PacedStages().decode(request.latents, request.order)

    async def wait_for_last_run(self) -> int:
        """Wait until the last run has ended, and tell the steps that it took."""
        await self._runs[-1].is_closed.wait()
        return self._runs[-1].steps_taken


class IngressDeployment:
    """The router's application over handles."""

    def __init__(self, config: AppConfig, paced: DeploymentHandle[Any]) -> None:
        stages = HandleStages(paced, {"default": paced}, paced, by_value=config.calls.by_value)
        self._api = build_api_over(config, stages)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._api
