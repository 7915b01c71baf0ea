"""In a service, what computes on the CPU goes behind what answers callers."""

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deployments.cache_config import CacheConfig
from deployments.config import AppConfig
from deployments.denoiser import DenoiserDeployment
from deployments.loading import StageLoader
from deployments.pools import to_terms
from deployments.served_model import describe_model
from deployments.text_encoder import TextEncoderDeployment
from deployments.vae_decoder import VaeDecoderDeployment
from pipeline.weights import resolve_weights

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="niceness is a thread's on Linux")

CONFIG = AppConfig()
Load = Callable[[StageLoader], object]


def load_denoiser(load: StageLoader) -> object:
    model = describe_model(load.weights, served_name=None)
    [pool] = CONFIG.pools
    terms = to_terms(pool, model, step_detail_ratio=0.0)
    return DenoiserDeployment(partial(load.denoiser, pool), lambda: "local", terms)


def load_text_encoder(load: StageLoader) -> object:
    return TextEncoderDeployment(
        partial(load.cached_text_encoder, CONFIG.text_encoder, CacheConfig())
    )


def load_vae_decoder(load: StageLoader) -> object:
    return VaeDecoderDeployment(partial(load.vae_decoder, CONFIG.vae_decoder))


@pytest.fixture
def load(tiny_model: Path) -> StageLoader:
    return StageLoader(resolve_weights(str(tiny_model)))


def load_and_compare(load_stage: Load, load: StageLoader, name: str) -> tuple[int, int]:
    """Return the niceness of this thread and of the stage's, once it has loaded."""
    before = {thread.ident for thread in threading.enumerate()}
    stage: Any = load_stage(load)
    [compute] = [
        thread
        for thread in threading.enumerate()
        if thread.ident not in before and thread.name.startswith(name)
    ]
    assert stage is not None
    assert compute.native_id is not None
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    return here, os.getpriority(os.PRIO_PROCESS, compute.native_id)


STAGES = pytest.mark.parametrize(
    ("load_stage", "name"),
    [
        (load_denoiser, "step-loop"),
        (load_text_encoder, "text-encoder"),
        (load_vae_decoder, "vae-decoder"),
    ],
)


@STAGES
def test_a_stage_of_a_service_computes_behind_its_own_event_loop(
    load: StageLoader, load_stage: Load, name: str
) -> None:
    here, compute = load_and_compare(load_stage, replace(load, goes_behind=True), name)

    assert compute == min(here + 4, 19)


@STAGES
def test_a_stage_without_a_service_computes_as_its_process_does(
    load: StageLoader, load_stage: Load, name: str
) -> None:
    here, compute = load_and_compare(load_stage, load, name)

    assert compute == here
