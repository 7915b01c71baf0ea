"""The tiles of a step over the replicas of a pool, through Serve's own handles."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from paced_service import run_paced_service
from ray import serve

from deployments.config import AppConfig
from pipeline.denoising.work import VelocityRequest
from pipeline.request import PromptEncoding

pytestmark = [pytest.mark.serve, pytest.mark.cluster]

NUM_REPLICAS = 2
NUM_TILES = 4
NUM_STEPS = 10


def test_idle_replicas_share_the_tiles_of_every_step_evenly(tmp_path: Path) -> None:
    replicas = {"min_replicas": NUM_REPLICAS, "max_replicas": NUM_REPLICAS}
    pool = {"name": "tiles", "path": "tiled", "device": "cpu", **replicas}
    config = AppConfig.model_validate(
        {"pools": [pool], "store": {"path": str(tmp_path / "images")}}
    )

    with run_paced_service(config, tmp_path / "logs"):
        handle = serve.get_deployment_handle("DenoiserDeployment-tiles", "zimage")
        _, *steps = asyncio.run(_send_steps(handle))

    # A handle learns of the replicas with its first calls.
    assert [sorted(step.values()) for step in steps] == [[2, 2]] * (NUM_STEPS - 1)


async def _send_steps(handle: Any) -> list["Counter[str]"]:
    return [await _send_step(handle, step) for step in range(NUM_STEPS)]


async def _send_step(handle: Any, step: int) -> "Counter[str]":
    encoding = PromptEncoding(torch.zeros(64, 2560, dtype=torch.bfloat16))
    calls = [
        handle.predict_velocity.remote(
            VelocityRequest(f"{step}-{tile}", encoding, torch.zeros(1, 16, 32, 32), 0.5)
        )
        for tile in range(NUM_TILES)
    ]
    return Counter([tile.replica for tile in await asyncio.gather(*calls)])
