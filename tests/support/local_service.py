"""The application in this process, without Ray, and a real server in front of it."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from deployments.config import AppConfig, FolderStoreConfig, LimitsConfig, ModelConfig, RouterConfig
from deployments.image_api import build_api
from deployments.loading import StageLoader
from deployments.local_stages import load_local_stages
from deployments.pool_choice import FirstPoolChooser
from deployments.readiness import Readiness
from deployments.served_model import describe_model
from deployments.stages import Stages
from pipeline.request import ImageSize
from pipeline.weights import resolve_weights


def local_config(
    model: Path,
    folder: Path,
    *,
    limits: LimitsConfig | None = None,
    router: RouterConfig | None = None,
) -> AppConfig:
    """Configure a service with a folder store."""
    return AppConfig(
        model=ModelConfig(source=str(model), served_name="tiny"),
        store=FolderStoreConfig(path=folder, base_url="http://127.0.0.1"),
        limits=limits or LimitsConfig(),
        router=router or RouterConfig(),
    )


def build_local_api(config: AppConfig) -> FastAPI:
    """Build the application over the real stages in this process."""
    weights = resolve_weights(config.model.source, config.model.revision)
    model = describe_model(weights, served_name=config.model.served_name)
    return build_api_over(config, load_local_stages(config, StageLoader(weights), model))


def build_api_over(config: AppConfig, stages: Stages) -> FastAPI:
    """Build the application over other stages; the model says no more than its name and limits.

    Its `auto` is 64x64, so that a call without a size takes milliseconds.
    """
    weights = resolve_weights(config.model.source, config.model.revision)
    described = describe_model(weights, served_name=config.model.served_name)
    model = replace(described, default_size=ImageSize(64, 64))
    pools = tuple(pool.name for pool in config.pools)
    chooser = FirstPoolChooser({pool.name: pool.path for pool in config.pools})
    return build_api(config, model, stages, chooser, Readiness(stages, pools, timeout_s=60))


@contextlib.contextmanager
def serve_locally(app: FastAPI) -> Iterator[str]:
    """Serve on a free port until the context ends; gives the URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # a call may come before the server has started
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
