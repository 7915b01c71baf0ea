"""The tiled path on a real transformer of tiny size."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from tile_executor import TransformerTileExecutor
from tiled_denoiser import TiledDenoiser, TileExecutor, denoise_tiled
from torch import Tensor

from pipeline.denoising.preview import choose_preview_steps
from pipeline.denoising.tiled import TiledRun, TileItem
from pipeline.errors import DeadlineError, NumericalError
from pipeline.latents import draw_noise
from pipeline.request import DenoiseRequest, DenoiseResult, ImageSize, PromptEncoding, StepEvent
from pipeline.schedule import build_schedule
from pipeline.tiled_passes import TilingOptions
from pipeline.tiling import TilePositions

SMALL_TILES = TilingOptions(tile_size=16, overlap=8, start_sigma=0.643, base_max_pixels=128 * 128)
WIDE = ImageSize(128, 192)


@pytest.fixture(scope="module")
def transformer() -> Any:
    torch.manual_seed(0)
    model = ZImageTransformer2DModel(
        dim=48,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 8, 8],
        axes_lens=[96, 64, 64],
    )
    for token in (model.x_pad_token, model.cap_pad_token):
        torch.nn.init.normal_(token)
    return model.eval()


@pytest.fixture
def executor(transformer: Any) -> TransformerTileExecutor:
    return TransformerTileExecutor(transformer)


def picture(size: ImageSize, *, seed: int = 3, num_inference_steps: int = 8) -> DenoiseRequest:
    embeds = torch.randn(11, 16, generator=torch.Generator().manual_seed(5))
    return DenoiseRequest("one", PromptEncoding(embeds), size, seed, num_inference_steps)


def draw(
    request: DenoiseRequest, executor: TileExecutor, options: TilingOptions = SMALL_TILES
) -> Tensor:
    return TiledDenoiser(executor, options).denoise(request).latents


@torch.inference_mode()
def draw_whole(transformer: Any, request: DenoiseRequest) -> Tensor:
    """Draw by the stock transformer's own forward."""
    schedule = build_schedule(request.num_inference_steps)
    latents = draw_noise(request.size, seed=request.seed)
    for step in range(request.num_inference_steps):
        time = torch.tensor([schedule.model_time(step)])
        embeds = [request.encoding.prompt_embeds]
        [sample] = transformer([latents[0][:, None]], time, embeds).sample
        latents = schedule.advance(latents, -sample[None, :, 0], step)
    return latents


@pytest.mark.parametrize("size", [ImageSize(128, 128), ImageSize(80, 112), ImageSize(16, 16)])
@pytest.mark.parametrize("positions", list(TilePositions))
def test_one_tile_is_bit_for_bit_the_whole_picture(
    transformer: Any, executor: TileExecutor, size: ImageSize, positions: TilePositions
) -> None:
    options = TilingOptions(tile_size=16, overlap=8, positions=positions)

    assert torch.equal(
        draw(picture(size), executor, options), draw_whole(transformer, picture(size))
    )


def test_the_caption_path_runs_once_whatever_the_number_of_tiles(
    executor: TransformerTileExecutor,
) -> None:
    draw(picture(ImageSize(256, 256)), executor)

    assert executor.num_captions == 1
    assert executor.num_forwards == 5 * 1 + 3 * 9


def test_the_steps_told_are_those_of_both_passes(executor: TileExecutor) -> None:
    events: list[StepEvent] = []
    result = TiledDenoiser(executor, SMALL_TILES).denoise(picture(WIDE), events.append)

    assert [event.step for event in events] == list(range(1, 9))
    assert {event.num_inference_steps for event in events} == {8}
    assert events[-1].sigma == 0
    assert result.latents.shape == (1, 16, 16, 24)
    assert result.latents.dtype == torch.float32


def test_sigma_falls_to_the_start_of_the_tiled_pass_and_then_to_zero(
    executor: TileExecutor,
) -> None:
    run = TiledRun(picture(WIDE), SMALL_TILES)
    executor.prepare_caption("one", picture(WIDE).encoding)
    sigmas = []
    while not run.is_done:
        sigmas.append(run.take(executor.predict_velocities(run.next_items())).sigma)

    assert tuple(sigmas) == build_schedule(8).sigmas[1:]


@pytest.mark.parametrize("positions", list(TilePositions))
def test_a_seed_gives_the_same_bytes_again(
    executor: TileExecutor, positions: TilePositions
) -> None:
    options = TilingOptions(tile_size=16, overlap=8, positions=positions)

    assert torch.equal(
        draw(picture(WIDE), executor, options), draw(picture(WIDE), executor, options)
    )


def test_positions_are_what_the_transformer_is_told(executor: TileExecutor) -> None:
    true, local = (
        draw(picture(WIDE), executor, TilingOptions(16, 8, positions))
        for positions in (TilePositions.TRUE, TilePositions.LOCAL)
    )

    assert not torch.allclose(true, local)


class TwoCards:
    """Deals tiles over two executors, and asks for them in reverse."""

    def __init__(self, cards: Sequence[TileExecutor]) -> None:
        self._cards = cards

    def prepare_caption(self, caption_key: str, encoding: PromptEncoding) -> None:
        for card in self._cards:
            card.prepare_caption(caption_key, encoding)

    def predict_velocities(self, items: Sequence[TileItem]) -> list[Tensor]:
        dealt = [
            self._cards[i % 2].predict_velocities([item])[0]
            for i, item in reversed(list(enumerate(items)))
        ]
        return dealt[::-1]

    def release_caption(self, caption_key: str) -> None:
        for card in self._cards:
            card.release_caption(caption_key)


def test_the_picture_is_the_same_whichever_card_ran_a_tile(transformer: Any) -> None:
    one = TransformerTileExecutor(transformer)
    two = TwoCards([TransformerTileExecutor(transformer), TransformerTileExecutor(transformer)])

    assert torch.equal(draw(picture(WIDE), one), draw(picture(WIDE), two))


def test_asking_for_the_tiles_again_changes_nothing(executor: TileExecutor) -> None:
    run = TiledRun(picture(WIDE), SMALL_TILES)
    executor.prepare_caption("one", picture(WIDE).encoding)
    while not run.is_done:
        executor.predict_velocities(run.next_items())
        run.take(executor.predict_velocities(run.next_items()))

    assert torch.equal(run.latents, draw(picture(WIDE), executor)[0])


class TrueVelocity:
    """A transformer that knows the picture: its velocity is noise - x0, from every tile."""

    def __init__(self, request: DenoiseRequest, x0: Tensor) -> None:
        self._schedule = build_schedule(request.num_inference_steps)
        self._x0 = x0

    def prepare_caption(self, caption_key: str, encoding: PromptEncoding) -> None:
        return None

    def release_caption(self, caption_key: str) -> None:
        return None

    def predict_velocities(self, items: Sequence[TileItem]) -> list[Tensor]:
        return [self._predict(item) for item in items]

    def _predict(self, item: TileItem) -> Tensor:
        row, column = (2 * patches for patches in item.position_origin)
        _, height, width = item.latents.shape
        x0 = self._x0[:, row : row + height, column : column + width]
        return (item.latents - x0) / (1 - item.model_time)


def test_tiles_that_agree_draw_the_picture_they_agree_on() -> None:
    request = picture(ImageSize(256, 256))
    x0 = torch.randn(16, 32, 32, generator=torch.Generator().manual_seed(2))
    options = TilingOptions(tile_size=16, overlap=8, start_sigma=1)
    latents = draw(request, TrueVelocity(request, x0), options)

    torch.testing.assert_close(latents[0], x0, rtol=0, atol=1e-4)


def test_the_canvas_restarts_from_the_upsampled_base_and_its_own_noise() -> None:
    request = picture(ImageSize(256, 256))
    x0 = torch.ones(16, 1, 1) * torch.linspace(-1, 1, 16)[:, None, None]
    run = TiledRun(request, SMALL_TILES)
    truth = TrueVelocity(request, x0.expand(16, 64, 64))
    while len(run.next_items()) == 1:
        run.take(truth.predict_velocities(run.next_items()))
    sigma = build_schedule(8).sigmas[5]
    expected = (1 - sigma) * x0 + sigma * draw_noise(request.size, seed=request.seed)[0]

    torch.testing.assert_close(run.latents, expected, rtol=0, atol=1e-5)


def test_the_base_is_drawn_from_other_noise_than_the_canvas() -> None:
    base = TiledRun(picture(WIDE), SMALL_TILES).latents.flatten()
    canvas = draw_noise(WIDE, seed=3).flatten()[: base.numel()]

    assert abs(float(torch.corrcoef(torch.stack([base, canvas]))[0, 1])) < 0.05


def test_closing_the_generator_stops_between_steps_and_lets_the_caption_go(
    executor: TransformerTileExecutor,
) -> None:
    steps = denoise_tiled(picture(WIDE), executor, SMALL_TILES)
    next(steps)
    steps.close()

    assert executor.num_forwards == 1
    assert executor.open_captions == set()


def test_a_picture_out_of_time_is_given_up(executor: TransformerTileExecutor) -> None:
    request = DenoiseRequest("late", picture(WIDE).encoding, WIDE, 0, 8, timeout_s=0.0)
    with pytest.raises(DeadlineError, match="within 0 s"):
        list(denoise_tiled(request, executor, SMALL_TILES))

    assert executor.open_captions == set()


def test_a_velocity_that_is_not_finite_is_an_error() -> None:
    run = TiledRun(picture(WIDE), SMALL_TILES)
    [item] = run.next_items()

    with pytest.raises(NumericalError, match="velocities must be finite"):
        run.take([torch.full_like(item.latents, float("nan"))])


def test_previews_come_at_even_steps_at_the_pictures_own_size(executor: TileExecutor) -> None:
    request = DenoiseRequest("seen", picture(WIDE).encoding, WIDE, 0, 8, num_previews=3)
    outcomes = list(denoise_tiled(request, executor, SMALL_TILES, lambda x0: x0[:3]))
    previews = {
        outcome.step: outcome.preview.shape
        for outcome in outcomes[:-1]
        if isinstance(outcome, StepEvent) and outcome.preview is not None
    }

    assert previews == dict.fromkeys([2, 4, 6], torch.Size([3, 16, 24]))
    assert isinstance(outcomes[-1], DenoiseResult)


def test_no_preview_is_made_of_what_is_already_done() -> None:
    assert choose_preview_steps(8, 20) == frozenset(range(1, 8))
