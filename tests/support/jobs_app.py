"""The HTTP application over real stages in this process, which a test can hold at any step."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from fastapi import FastAPI
from torch import Tensor

from deployments.config import AppConfig
from deployments.errors import ApiError
from deployments.image_api import build_api
from deployments.loading import StageLoader
from deployments.local_stages import LocalStages, load_local_stages
from deployments.pool_choice import FirstPoolChooser
from deployments.readiness import Readiness
from deployments.served_model import ServedModel, describe_model
from deployments.stages import Denoised, Encoded, FileOrder, ImageFile
from pipeline.request import DenoiseRequest, StepEvent
from pipeline.weights import resolve_weights

WITHIN_S = 60.0


_WARM_UP: Final = "warm-up"
"""What the id of a picture begins with that a router draws for itself."""


class HeldStages:
    """Real stages; a closed gate holds every denoiser before its next step is seen."""

    def __init__(self, stages: LocalStages) -> None:
        self._stages = stages
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: Counter[str] = Counter()
        """How often each picture was begun."""
        self.let_go: set[str] = set()
        """Pictures that were given up, but for the warm-up."""
        self.failures: list[ApiError] = []
        """Raised by the next encodings, one each."""

    async def encode(self, prompt: str) -> Encoded:
        if self.failures and prompt != "warm up":
            raise self.failures.pop(0)
        return await self._stages.encode(prompt)

    async def denoise(
        self, pool: str, request: DenoiseRequest, *, yields_steps: bool = False
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        self.begun[request.id] += 1
        try:
            async with contextlib.aclosing(
                self._stages.denoise(pool, request, yields_steps=yields_steps)
            ) as events:
                async for event in events:
                    await self.gate.wait()
                    yield event
        except (GeneratorExit, asyncio.CancelledError):
            if not request.id.startswith(_WARM_UP):
                self.let_go.add(request.id)
            raise

    async def decode(self, latents: Tensor, order: FileOrder) -> ImageFile:
        return await self._stages.decode(latents, order)

    def drawn(self) -> Counter[str]:
        """Return the pictures that were begun, but for the warm-up."""
        return Counter({id: n for id, n in self.begun.items() if not id.startswith(_WARM_UP)})


@dataclass(frozen=True)
class LoadedModel:
    """A model in this process, for as many applications as a test needs."""

    source: Path
    stages: LocalStages
    described: ServedModel


def load_model(source: Path) -> LoadedModel:
    config = AppConfig.model_validate({"model": {"source": str(source)}})
    weights = resolve_weights(config.model.source, config.model.revision)
    described = describe_model(weights, served_name="tiny")
    return LoadedModel(
        source, load_local_stages(config, StageLoader(weights), described), described
    )


@dataclass(frozen=True)
class RunningApi:
    """An application that serves."""

    client: httpx.AsyncClient
    stages: HeldStages
    app: FastAPI = field(repr=False)

    async def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(f"/v1/images/{path}", json=body, headers=named)

    async def wait_for(self, id: str, *statuses: str) -> dict[str, Any]:
        """Return a job as soon as it has one of the statuses."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                job: dict[str, Any] = (await self.client.get(f"/v1/images/jobs/{id}")).json()
                if job["status"] in statuses:
                    return job
                await asyncio.sleep(0.01)

    async def finish(self, id: str) -> dict[str, Any]:
        """Return a job when it has ended."""
        return await self.wait_for(id, "succeeded", "failed", "cancelled")


def app_config(folder: Path, model: Path, **sections: Any) -> AppConfig:
    """Return a configuration whose state is in a folder, and which looks often."""
    jobs = {"poll_s": 0.02, **sections.pop("jobs", {})}
    return AppConfig.model_validate(
        {
            "model": {"source": str(model), "served_name": "tiny"},
            "store": {"path": str(folder / "images"), "base_url": "http://test"},
            "jobs": jobs,
            **sections,
        }
    )


@contextlib.asynccontextmanager
async def run_api(
    config: AppConfig, model: LoadedModel, *, key: str | None = None
) -> AsyncIterator[RunningApi]:
    """Serve in this process; calls have the key unless they bring one."""
    stages = HeldStages(model.stages)
    pools = tuple(pool.name for pool in config.pools)
    readiness = Readiness(stages, pools, timeout_s=WITHIN_S)
    chooser = FirstPoolChooser({pool.name: pool.path for pool in config.pools})
    app = build_api(config, model.described, stages, chooser, readiness)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {} if key is None else bearer(key)
    client = httpx.AsyncClient(
        transport=transport, base_url="http://test", timeout=WITHIN_S, headers=headers
    )
    async with app.router.lifespan_context(app), client:
        yield RunningApi(client, stages, app)


def bearer(key: str) -> dict[str, str]:
    """Return the header that gives a key."""
    return {"authorization": f"Bearer {key}"}


async def wait_until(condition: Any) -> None:
    """Wait for a fact of this process, in bounded time."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.005)
