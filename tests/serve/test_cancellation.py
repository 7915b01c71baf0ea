"""A reader that leaves stops the steps, through Serve's proxy and two handles."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from fakes import SteppedStages
from local_service import build_api_over, local_config
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.handle import DeploymentHandle
from service import free_port
from starlette.types import ASGIApp
from torch import Tensor

from deployments.commands.cluster import ray_cluster
from deployments.config import AppConfig
from deployments.handles import HandleStages
from deployments.stages import Denoised, FileOrder, ImageFile
from pipeline.request import DenoiseRequest, PromptEncoding, StepEvent

pytestmark = pytest.mark.serve

NUM_STEPS = 50
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

    async def encode(self, prompt: str) -> PromptEncoding:
        return await PacedStages().encode(prompt)

    async def denoise(
        self, request: DenoiseRequest, *, yields_steps: bool
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        stages = PacedStages()
        stages.allow(request.num_inference_steps)
        self._runs.append(stages)
        async with contextlib.aclosing(stages.denoise("default", request)) as events:
            async for event in events:
                yield event

    async def decode(self, latents: Tensor, order: FileOrder) -> ImageFile:
        return await PacedStages().decode(latents, order)

    async def wait_for_last_run(self) -> int:
        """Wait until the last run has ended, and tell the steps that it took."""
        await self._runs[-1].is_closed.wait()
        return self._runs[-1].steps_taken


class IngressDeployment:
    """The router's application over handles."""

    def __init__(self, config: AppConfig, paced: DeploymentHandle[Any]) -> None:
        self._api = build_api_over(config, HandleStages(paced, {"default": paced}, paced))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._api


@pytest.fixture(scope="module")
def url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cancellation") / "store"
    port = free_port()
    paced = serve.deployment(ray_actor_options={"num_cpus": 0.1})(PacedDeployment).bind()
    ingress = serve.deployment(ray_actor_options={"num_cpus": 0.1})(
        serve.ingress()(IngressDeployment)
    )
    with ray_cluster(None):
        serve.start(http_options=HTTPOptions(port=port))
        serve.run(ingress.bind(local_config(tiny_model, folder), paced), name="streams")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    assert not ray.is_initialized()


def _steps_of_last_run() -> int:
    handle = serve.get_deployment_handle("PacedDeployment", "streams")
    return int(handle.wait_for_last_run.remote().result(timeout_s=30))


def _read_until(url: str, text: str) -> None:
    body = {
        "prompt": "x",
        "size": "64x64",
        "num_inference_steps": NUM_STEPS,
        "stream": True,
        "progress_events": True,
    }
    with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=30) as answer:
        next(line for line in answer.iter_lines() if text in line)


def test_a_stream_that_is_read_takes_every_step(url: str) -> None:
    _read_until(url, "image_generation.completed")

    assert _steps_of_last_run() == NUM_STEPS


def test_a_reader_that_leaves_stops_the_steps(url: str) -> None:
    _read_until(url, '"step":3,')

    assert _steps_of_last_run() < NUM_STEPS
