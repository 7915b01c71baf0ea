"""A card's memory bounds its replicas, and what the router lets through."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from local_service import local_config

from cluster.accelerators import Precision
from cluster.errors import PlacementError
from cluster.memory import denoiser_peak_gib, vae_decoder_peak_gib
from deployments.config import (
    AppConfig,
    KernelNames,
    PoolConfig,
    ReplicaConfig,
    StepLoopConfig,
    TilingConfig,
    VaeDecoderConfig,
)
from deployments.image_api import build_api
from deployments.loading import StageLoader
from deployments.local_stages import load_local_stages
from deployments.memory_plan import max_pixels_in_memory, memory_of
from deployments.pool_choice import LedgerPoolChooser
from deployments.pools import to_known_pool
from deployments.readiness import Readiness
from deployments.routing.paths import RoutingPolicy
from deployments.served_model import ServedModel, describe_model
from pipeline.memory import DENOISER_BF16, DENOISER_FP8, VAE_FULL, DecodeMode
from pipeline.request import RenderPath
from pipeline.weights import EMBEDDED, resolve_weights

CONSUMER = PoolConfig(profile="consumer-16gb", path=RenderPath.TILED, num_gpus=1)
WHOLE_CONSUMER = PoolConfig(profile="consumer-16gb", num_gpus=1)
ON_CPU = VaeDecoderConfig()
KERNELS: tuple[KernelNames, ...] = ("auto", "modules", "fused")


@pytest.fixture(scope="module")
def turbo() -> ServedModel:
    """The embedded model's description with the true transformer's memory."""
    described = describe_model(resolve_weights(EMBEDDED), served_name=None)
    return replace(described, denoiser_memory=DENOISER_BF16, eight_bit_memory=DENOISER_FP8)


@pytest.mark.parametrize(
    ("config", "memory_gib"),
    [
        (ReplicaConfig(), None),
        (ReplicaConfig(profile="consumer-16gb", num_gpus=1), 14.75),
        (ReplicaConfig(profile="h800", num_gpus=0.5), 38.0),
        (ReplicaConfig(profile="h800", num_gpus=2), 76.0),
        (ReplicaConfig(profile="h800", num_gpus=0.5, memory_gib=20), 20),
    ],
)
def test_a_replica_has_its_share_of_the_card(
    config: ReplicaConfig, memory_gib: float | None
) -> None:
    assert memory_of(config) == memory_gib


def test_without_a_bound_every_picture_fits(turbo: ServedModel) -> None:
    assert max_pixels_in_memory(PoolConfig(), ON_CPU, turbo) == []


def test_a_tiled_pool_is_bounded_by_no_size_of_picture(turbo: ServedModel) -> None:
    assert max_pixels_in_memory(CONSUMER, ON_CPU, turbo) == []


def test_the_largest_full_image_takes_no_more_than_the_card(turbo: ServedModel) -> None:
    (most,) = max_pixels_in_memory(WHOLE_CONSUMER, ON_CPU, turbo)

    assert DENOISER_BF16.peak_gib(most // 256) <= 14.75 < DENOISER_BF16.peak_gib(most // 256 + 1)


def test_float8_holds_larger_pictures(turbo: ServedModel) -> None:
    halved = WHOLE_CONSUMER.model_copy(update={"step_loop": StepLoopConfig(precision="float8")})
    (most,) = max_pixels_in_memory(halved, ON_CPU, turbo)

    assert DENOISER_FP8.peak_gib(most // 256) <= 14.75 < DENOISER_FP8.peak_gib(most // 256 + 1)
    assert [most] > max_pixels_in_memory(WHOLE_CONSUMER, ON_CPU, turbo)


def test_a_decoder_that_may_tile_takes_larger_pictures(turbo: ServedModel) -> None:
    decoder = VaeDecoderConfig(memory_gib=4)
    (in_tiles,) = max_pixels_in_memory(PoolConfig(), decoder, turbo)
    whole_only = decoder.model_copy(update={"mode": DecodeMode.FULL_IMAGE})
    (whole,) = max_pixels_in_memory(PoolConfig(), whole_only, turbo)

    assert VAE_FULL.peak_gib(whole // 256) <= 4
    assert in_tiles >= 4096 * 4096 > whole


def test_a_decoder_is_let_through_what_its_kernels_hold(turbo: ServedModel) -> None:
    auto, modules, fused = (
        max_pixels_in_memory(
            PoolConfig(),
            VaeDecoderConfig(mode=DecodeMode.FULL_IMAGE, memory_gib=6, kernels=kernels),
            turbo,
        )
        for kernels in KERNELS
    )

    assert auto == modules
    assert fused[0] > 2048 * 2048 > modules[0]


@pytest.mark.parametrize(
    "pool",
    [
        CONSUMER.model_copy(update={"memory_gib": 11.9}),
        CONSUMER.model_copy(update={"tiling": TilingConfig(tile_size=512)}),
        WHOLE_CONSUMER.model_copy(update={"memory_gib": 11}),
    ],
)
def test_a_pool_that_does_not_hold_a_tile_is_refused(pool: PoolConfig, turbo: ServedModel) -> None:
    with pytest.raises(PlacementError, match="memory_gib of pool default must be at least 1"):
        max_pixels_in_memory(pool, ON_CPU, turbo)


def test_the_true_models_memory_is_what_was_measured(turbo: ServedModel, tmp_path: Path) -> None:
    tiny = describe_model(resolve_weights(EMBEDDED), served_name=None).denoiser_memory

    assert tiny.fixed_gib < 0.1
    assert tiny.kib_per_token == pytest.approx(DENOISER_BF16.kib_per_token * 256 / 3840)


@pytest.mark.parametrize("side", [512, 1024, 2048])
def test_placement_and_the_pipeline_tell_the_same_peaks(side: int) -> None:
    tokens = (side // 16) ** 2

    assert denoiser_peak_gib(side**2, Precision.BF16) == pytest.approx(
        DENOISER_BF16.peak_gib(tokens), abs=0.1
    )
    assert vae_decoder_peak_gib(side**2) == pytest.approx(VAE_FULL.peak_gib(tokens), abs=0.15)


async def test_the_router_refuses_what_cannot_fit_and_names_what_would(
    tiny_model: Path, tmp_path: Path
) -> None:
    config = bounded(local_config(tiny_model, tmp_path / "store"))
    weights = resolve_weights(config.model.source)
    model = describe_model(weights, served_name="tiny")
    stages = load_local_stages(config, StageLoader(weights), model)
    pools = [to_known_pool(pool, config, model) for pool in config.pools]
    chooser = LedgerPoolChooser(pools, RoutingPolicy(), router_id="router")
    app = build_api(config, model, stages, chooser, Readiness(stages, ("default",), timeout_s=60))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post(
            "/v1/images/generations", json={"prompt": "a circle", "size": "1024x512"}
        )

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "size")
    assert "the largest of this shape is 672x336, got 512 x 1024" in error["message"]


def bounded(config: AppConfig) -> AppConfig:
    """Give the decoder so little memory that about 900 tokens fit."""
    decoder = VaeDecoderConfig(mode=DecodeMode.FULL_IMAGE, memory_gib=VAE_FULL.peak_gib(900))
    return config.model_copy(update={"vae_decoder": decoder})
