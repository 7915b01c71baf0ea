"""One application over the real stages and a tiny model, shared by the tests of a module."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from local_service import build_local_api, local_config

from deployments.config import LimitsConfig

MAX_PIXELS = 96 * 96


@pytest.fixture(scope="module")
def local_app(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The application; its largest picture takes milliseconds."""
    folder = tmp_path_factory.mktemp("local") / "store"
    limits = LimitsConfig(max_pixels=MAX_PIXELS)
    return build_local_api(local_config(tiny_model, folder, limits=limits))


@pytest.fixture
async def caller(local_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of the application, without a server."""
    transport = httpx.ASGITransport(app=local_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
