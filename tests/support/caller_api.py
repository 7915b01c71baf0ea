"""The HTTP application over real stages in this process, called as each of several callers."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml
from fastapi import FastAPI

from deployments.compute_threads import load_on_new_thread
from deployments.config import AppConfig, PoolConfig
from deployments.image_api import build_api
from deployments.key_file import draw_key, hash_key
from deployments.loading import StageLoader, fingerprint
from deployments.local_stages import load_local_stages
from deployments.pool_choice import FirstPoolChooser
from deployments.readiness import Readiness
from deployments.served_model import ServedModel, describe_model
from deployments.stages import Stages
from pipeline.device import choose_device
from pipeline.request import ImageSize
from pipeline.weights import resolve_weights

SMALL = {"prompt": "x", "size": "64x64", "num_inference_steps": 1}


@dataclass(frozen=True)
class LoadedModel:
    """A tiny model in this process, for as many applications as tests build."""

    model: ServedModel
    stages: Stages
    fingerprint: str
    """Of the pictures that it draws here."""


def load_model(source: Path) -> LoadedModel:
    config = AppConfig.model_validate({"model": {"source": str(source)}})
    weights = resolve_weights(config.model.source)
    described = describe_model(weights, served_name="tiny")
    model = replace(described, default_size=ImageSize(64, 64))
    stages = load_local_stages(config, StageLoader(weights), model)
    return LoadedModel(model, stages, load_on_new_thread(partial(_name_bytes, config.pools[0])))


def _name_bytes(pool: PoolConfig) -> str:
    """Say what a pool's bytes depend on, with the threads that its loader chose for itself."""
    compute = choose_device("auto", num_threads=pool.num_threads or os.cpu_count())
    return fingerprint(compute, pool)


def build_app(
    loaded: LoadedModel,
    folder: Path,
    *,
    fingerprints: Callable[[], frozenset[str]] = frozenset,
    **sections: dict[str, Any],
) -> FastAPI:
    config = AppConfig.model_validate({"store": {"path": str(folder / "images")}, **sections})
    pools = {pool.name: pool.path for pool in config.pools}
    readiness = Readiness(loaded.stages, tuple(pools), timeout_s=60)
    return build_api(
        config,
        loaded.model,
        loaded.stages,
        FirstPoolChooser(pools),
        readiness,
        read_fingerprints=fingerprints,
    )


def open_client(app: FastAPI, key: str | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        base_url="http://127.0.0.1:8000",
        headers={"authorization": f"Bearer {key}"} if key is not None else {},
    )


def write_keys(file: Path, **limits: dict[str, Any]) -> dict[str, str]:
    """Write a file with an entry a caller; returns each one's key."""
    keys = {name: draw_key(name) for name in limits}
    entries = [
        {"name": name, "hashes": [hash_key(keys[name])], **fields}
        for name, fields in limits.items()
    ]
    file.write_text(yaml.safe_dump({"keys": entries}), "utf-8")
    return keys
