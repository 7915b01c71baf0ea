"""Stages in one process draw on the path of the pool that they are asked for."""

import os
from base64 import b64decode
from pathlib import Path

import pytest
import torch
from observed_service import GENERATIONS, build_local_api, load_stages, open_client, to_config

from deployments.config import (
    AppConfig,
    PoolConfig,
    StepLoopConfig,
    TilingConfig,
    VaeDecoderConfig,
)
from deployments.loading import StageLoader, fingerprint
from deployments.local_stages import LocalStages
from deployments.stages import Denoised
from pipeline.device import choose_device
from pipeline.errors import AccelerationUnavailableError
from pipeline.image_file import read_provenance
from pipeline.request import (
    DenoiseRequest,
    ImageSize,
    PromptEncoding,
    RenderPath,
    StepEvent,
)
from pipeline.weights import resolve_weights

POOLS = [
    {"name": "whole"},
    {
        "name": "tiles",
        "path": "tiled",
        "tiling": {"tile_size": 16, "overlap": 4, "base_max_pixels": 16384},
    },
]


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AppConfig:
    return to_config(tiny_model, tmp_path_factory.mktemp("local"), pools=POOLS)


@pytest.fixture(scope="module")
def stages(config: AppConfig) -> LocalStages:
    return load_stages(config)


async def _draw(stages: LocalStages, pool: str, size: ImageSize) -> Denoised:
    embeds = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    request = DenoiseRequest("one", PromptEncoding(embeds), size, seed=3, num_inference_steps=4)
    (denoised,) = [outcome async for outcome in stages.denoise(pool, request)]
    assert isinstance(denoised, Denoised)
    return denoised


async def test_a_tiled_pool_draws_in_tiles(stages: LocalStages) -> None:
    size = ImageSize(256, 192)
    whole, tiled = [await _draw(stages, pool, size) for pool in ("whole", "tiles")]

    assert tiled.fingerprint.startswith("tiled/")
    assert not torch.allclose(tiled.result.latents, whole.result.latents)


async def test_a_tiled_pool_draws_what_fits_in_one_tile_as_a_whole(stages: LocalStages) -> None:
    size = ImageSize(128, 96)
    whole, tiled = [await _draw(stages, pool, size) for pool in ("whole", "tiles")]

    assert torch.equal(tiled.result.latents, whole.result.latents)


@pytest.mark.parametrize("pool", ["whole", "tiles"])
async def test_steps_without_a_preview_are_told_only_to_who_asks(
    stages: LocalStages, pool: str
) -> None:
    request = DenoiseRequest(
        "one",
        PromptEncoding(torch.zeros(20, 32)),
        ImageSize(256, 192),
        seed=3,
        num_inference_steps=4,
        num_previews=1,
        tells_every_step=False,
    )

    outcomes = [each async for each in stages.denoise(pool, request, yields_steps=True)]

    assert [isinstance(each, StepEvent) for each in outcomes] == [True, False]
    assert isinstance(outcomes[0], StepEvent)
    assert outcomes[0].preview is not None


@pytest.mark.parametrize("path", list(RenderPath))
async def test_a_call_is_drawn_on_the_path_it_pins(
    config: AppConfig, stages: LocalStages, path: RenderPath
) -> None:
    body = {"prompt": "a red circle", "size": "256x192", "num_inference_steps": 2, "path": path}

    async with open_client(build_local_api(config, stages)) as client:
        answer = (await client.post(GENERATIONS, json=body)).json()

    assert answer["path"] == path
    assert answer["fingerprint"].startswith(path)


async def test_the_answer_and_the_file_say_how_the_picture_was_decoded(
    config: AppConfig, stages: LocalStages
) -> None:
    body = {
        "prompt": "a red circle",
        "size": "64x64",
        "num_inference_steps": 2,
        "path": RenderPath.FULL_IMAGE,
        "response_format": "b64_json",
    }

    async with open_client(build_local_api(config, stages)) as client:
        answer = (await client.post(GENERATIONS, json=body)).json()
    provenance = read_provenance(b64decode(answer["data"][0]["b64_json"]))

    denoiser, _, decoder = answer["fingerprint"].partition("/decode-")
    device = choose_device("auto", num_threads=os.cpu_count())
    assert denoiser == fingerprint(device, PoolConfig())
    assert decoder.startswith("full_image/modules/")
    assert provenance.fingerprint == answer["fingerprint"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may run them")
def test_kernels_that_a_machine_cannot_run_are_refused_at_start(tiny_model: Path) -> None:
    load = StageLoader(resolve_weights(str(tiny_model)))

    with pytest.raises(AccelerationUnavailableError, match="needs a GPU of compute capability"):
        load.vae_decoder(VaeDecoderConfig(kernels="fused"))


@pytest.mark.parametrize(
    "other",
    [
        {"tile_size": 64},
        {"overlap": 24},
        {"positions": "local"},
        {"start_sigma": 0.75},
        {"base_max_pixels": 512 * 512},
    ],
)
def test_another_tiling_has_another_fingerprint(other: dict[str, object]) -> None:
    tilings = [TilingConfig(), TilingConfig.model_validate(other)]
    one, another = (
        fingerprint(choose_device("cpu"), PoolConfig(path=RenderPath.TILED, tiling=tiling))
        for tiling in tilings
    )

    assert one != another


def test_a_whole_picture_does_not_depend_on_how_tiles_would_be_cut() -> None:
    tilings = [TilingConfig(), TilingConfig(tile_size=64)]
    one, another = (
        fingerprint(choose_device("cpu"), PoolConfig(tiling=tiling)) for tiling in tilings
    )

    assert one == another


def test_a_denoiser_that_cannot_run_its_kernels_is_refused() -> None:
    pool = PoolConfig(step_loop=StepLoopConfig(kernels="fused"))

    with pytest.raises(AccelerationUnavailableError, match="kernels 'fused' needs a GPU"):
        fingerprint(choose_device("cpu"), pool)
