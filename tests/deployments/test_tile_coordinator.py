"""The coordinator draws by single forwards what the full-image path draws, or tile by tile."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from cluster.spans import Carrier
from deployments.config import AppConfig, PoolConfig, TilingConfig
from deployments.denoiser import DenoiserDeployment
from deployments.errors import ReplicaLostError
from deployments.loading import StageLoader
from deployments.pools import to_terms
from deployments.retries import MAX_FULL
from deployments.routing.predictions import step_units
from deployments.served_model import describe_model
from deployments.stages import Denoised, TileVelocity
from deployments.tile_coordinator import PredictTile, TileCoordinatorDeployment
from pipeline.denoising.work import VelocityRequest
from pipeline.errors import DeadlineError, ReplicaFullError
from pipeline.request import DenoiseRequest, ImageSize, PromptEncoding, RenderPath, StepEvent
from pipeline.schedule import build_schedule
from pipeline.tiled_passes import plan_passes
from pipeline.weights import resolve_weights

TILED = PoolConfig(
    path=RenderPath.TILED, tiling=TilingConfig(tile_size=16, overlap=4, base_max_pixels=128 * 128)
)


@pytest.fixture(scope="module")
def load(tiny_model: Path) -> StageLoader:
    return StageLoader(resolve_weights(str(tiny_model)))


@pytest.fixture(scope="module")
def denoiser(load: StageLoader) -> DenoiserDeployment:
    model = describe_model(load.weights, served_name="tiny")
    pool = AppConfig().pools[0]
    return DenoiserDeployment(
        partial(load.denoiser, pool), lambda: "replica-1", to_terms(pool, model)
    )


def _coordinator(load: StageLoader, predict_tile: PredictTile) -> TileCoordinatorDeployment:
    return TileCoordinatorDeployment(partial(load.tiled_settings, TILED), predict_tile)


def _request(size: ImageSize, name: str = "picture") -> DenoiseRequest:
    embeds = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    return DenoiseRequest(name, PromptEncoding(embeds), size, seed=3, num_inference_steps=4)


async def _draw(
    drawer: TileCoordinatorDeployment | DenoiserDeployment, request: DenoiseRequest
) -> tuple[list[StepEvent], Denoised]:
    outcomes = [outcome async for outcome in drawer.denoise(request, yields_steps=True)]
    events = [outcome for outcome in outcomes if isinstance(outcome, StepEvent)]
    (denoised,) = [outcome for outcome in outcomes if isinstance(outcome, Denoised)]
    return events, denoised


async def test_one_tile_is_the_full_image_to_the_bit(
    load: StageLoader, denoiser: DenoiserDeployment
) -> None:
    request = _request(ImageSize(128, 96))
    coordinator = _coordinator(load, denoiser.predict_velocity)

    _, whole = await _draw(denoiser, request)
    _, tiled = await _draw(coordinator, request)

    assert torch.equal(tiled.result.latents, whole.result.latents)


async def test_a_large_picture_comes_out_of_tiles(
    load: StageLoader, denoiser: DenoiserDeployment
) -> None:
    coordinator = _coordinator(load, denoiser.predict_velocity)

    events, denoised = await _draw(coordinator, _request(ImageSize(256, 192)))

    assert denoised.result.latents.shape == (1, 16, 32, 24)
    assert denoised.replica == "replica-1"
    assert denoised.share_s > 0
    assert events[-1].step == events[-1].num_inference_steps


async def test_a_tile_whose_replica_is_lost_is_run_again_and_the_picture_is_the_same(
    load: StageLoader, denoiser: DenoiserDeployment
) -> None:
    lost: list[str] = []

    async def lose_first(call: VelocityRequest, trace: Carrier) -> TileVelocity:
        if not lost:
            lost.append(call.id)
            raise ReplicaLostError("gone")
        return await denoiser.predict_velocity(call)

    request = _request(ImageSize(256, 192))

    _, smooth = await _draw(_coordinator(load, denoiser.predict_velocity), request)
    _, bumpy = await _draw(_coordinator(load, lose_first), request)

    assert lost
    assert torch.equal(bumpy.result.latents, smooth.result.latents)


class FullLater:
    """A pool that is full for some calls, from its second step on."""

    def __init__(self, denoiser: DenoiserDeployment, num_refusals: int) -> None:
        self._denoiser = denoiser
        self._num_refusals = num_refusals
        self.timeouts_s: list[float] = []

    async def predict(self, call: VelocityRequest, trace: Carrier) -> TileVelocity:
        self.timeouts_s.append(call.timeout_s or 0.0)
        if "-0-" not in call.id and self._num_refusals:
            self._num_refusals -= 1
            raise ReplicaFullError("full")
        return await self._denoiser.predict_velocity(call)


async def test_a_picture_on_its_way_waits_for_a_full_pool(
    load: StageLoader, denoiser: DenoiserDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.retries._MOST_WAIT_S", 0.01)
    request = replace(_request(ImageSize(128, 96)), timeout_s=60.0)
    pool = FullLater(denoiser, MAX_FULL + 3)

    _, waited = await _draw(_coordinator(load, pool.predict), request)

    _, smooth = await _draw(_coordinator(load, denoiser.predict_velocity), request)
    assert torch.equal(waited.result.latents, smooth.result.latents)
    assert pool.timeouts_s == sorted(pool.timeouts_s, reverse=True)
    assert len(set(pool.timeouts_s)) == len(pool.timeouts_s)


async def test_a_picture_that_waits_for_a_full_pool_is_given_up_at_its_deadline(
    load: StageLoader, denoiser: DenoiserDeployment
) -> None:
    request = replace(_request(ImageSize(128, 96)), timeout_s=0.5)

    with pytest.raises(DeadlineError, match=r"must be (done|finished) within"):
        await _draw(_coordinator(load, FullLater(denoiser, 10**6).predict), request)


async def test_tiles_of_several_replicas_are_named_in_the_fingerprint(
    load: StageLoader, denoiser: DenoiserDeployment
) -> None:
    async def alternate(call: VelocityRequest, trace: Carrier) -> TileVelocity:
        tile = await denoiser.predict_velocity(call)
        name = f"card-{int(call.id[-1]) % 2}"
        return TileVelocity(tile.velocity, name, name)

    _, denoised = await _draw(_coordinator(load, alternate), _request(ImageSize(256, 192)))

    assert denoised.fingerprint == "card-0+card-1"


async def test_tiles_say_what_the_steps_after_them_will_cost(
    load: StageLoader, denoiser: DenoiserDeployment
) -> None:
    sent: dict[int, list[float]] = {}

    async def predict(call: VelocityRequest, trace: Carrier) -> TileVelocity:
        step = int(call.id.split("-")[1])
        sent.setdefault(step, []).append(call.later_units)
        return await denoiser.predict_velocity(call, trace)

    request = _request(ImageSize(256, 192))
    await _draw(_coordinator(load, predict), request)

    schedule = build_schedule(request.num_inference_steps, shift=load.weights.shift)
    passes = plan_passes(request.size, schedule, TILED.tiling.to_options())
    steps = [step_units(one.plan) for one in passes for _ in one.steps]
    later = [sum(steps[step + 1 :]) for step in range(len(steps))]
    assert [sum(sent[step]) for step in sorted(sent)] == pytest.approx(later)
    assert len({len(tiles) for tiles in sent.values()}) == 2
    assert all(len(set(tiles)) == 1 for tiles in sent.values())
