"""The HTTP application over stages in this process: everything but Ray."""

from collections.abc import Callable
from pathlib import Path

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from deployments.config import AppConfig
from deployments.image_api import build_api
from deployments.loading import StageLoader
from deployments.local_stages import LocalStages, load_local_stages
from deployments.pool_choice import FirstPoolChooser
from deployments.readiness import Readiness
from deployments.served_model import describe_model
from deployments.stages import Stages
from deployments.trace_middleware import TraceMiddleware
from deployments.usage_ledger import build_usage_ledger
from pipeline.weights import resolve_weights

GENERATIONS = "/v1/images/generations"


def load_stages(config: AppConfig) -> LocalStages:
    """Read the model into this process."""
    weights = resolve_weights(config.model.source, None)
    return load_local_stages(config, StageLoader(weights), describe_model(weights, served_name="m"))


def build_local_api(
    config: AppConfig, stages: Stages, wrap: Callable[[FastAPI], ASGIApp] = TraceMiddleware
) -> ASGIApp:
    """Compose the application as the router does."""
    model = describe_model(resolve_weights(config.model.source, None), served_name="m")
    pools = {pool.name: pool.path for pool in config.pools}
    usage = build_usage_ledger(config.usage, model)
    readiness = Readiness(stages, tuple(pools), timeout_s=60)
    api = build_api(config, model, stages, FirstPoolChooser(pools), readiness, usage=usage)
    return wrap(api)


def to_config(model: Path, folder: Path, **sections: object) -> AppConfig:
    """Configure a model and a folder for everything that is written."""
    return AppConfig.model_validate(
        {"model": {"source": str(model)}, "store": {"path": str(folder / "images")}, **sections}
    )


def open_client(api: ASGIApp) -> httpx.AsyncClient:
    """Return a client that calls the application directly."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(api, raise_app_exceptions=False), base_url="http://local"
    )
