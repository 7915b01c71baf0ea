import copy

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor, nn

from pipeline.acceleration.attention import build_attention
from pipeline.denoising.positions import PositionGrid
from pipeline.denoising.transformer import PackedItem, PackedTransformer
from pipeline.embedded import EMBEDDED_MODEL
from pipeline.embedded.training.batched import BatchedTransformer
from pipeline.embedded.training.batched_encoder import BatchedEncoder
from pipeline.embedded.training.coupling import NUM_CHOICES
from pipeline.embedded.training.denoiser import DenoiserSettings, DenoiserTraining
from pipeline.embedded.training.feed import (
    MAX_PATCHES,
    MIN_PATCHES,
    PATCH_PIXELS,
    CaptionedBatchMaker,
    Workers,
    shape_of_batch,
)
from pipeline.embedded.training.models import (
    build_text_encoder,
    build_transformer,
    build_vae,
    drop_unread_layer,
)
from pipeline.embedded.training.optimizer import FlatOptimizer, OptimizerSettings, orthogonalise
from pipeline.embedded.training.progress import ByClock, by_steps, to_the_end
from pipeline.embedded.training.ranks import Ranks
from pipeline.embedded.training.rates import cosine_rate, trapezoid_rate
from pipeline.embedded.training.trajectories import (
    NUM_STEPS,
    Walk,
    draw_restart_sigmas,
    draw_sigmas,
    noise_pictures,
    restart_pictures,
)
from pipeline.schedule import build_schedule
from tests.pipeline.embedded.pictures import read_choices


@pytest.mark.parametrize(("height", "width"), [(16, 16), (18, 22)])
@torch.no_grad()
def test_the_batched_forward_is_the_class_own_forward(height: int, width: int) -> None:
    torch.manual_seed(0)
    transformer = build_transformer()
    lengths = [20, 5, 32]
    latents, model_time = torch.randn(3, 16, height, width), torch.rand(3)
    captions = torch.randn(3, 32, 192)
    listed = transformer(
        [latent[:, None] for latent in latents],
        model_time,
        [caption[:length] for caption, length in zip(captions, lengths, strict=True)],
        return_dict=False,
    )[0]
    batched = BatchedTransformer(transformer)(latents, model_time, captions, torch.tensor(lengths))
    torch.testing.assert_close(batched, torch.stack(listed).squeeze(2), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_tile_stands_at_its_place_in_the_picture() -> None:
    torch.manual_seed(0)
    transformer = build_transformer()
    latents, embeds = torch.randn(1, 16, 8, 12), torch.randn(1, 32, 192)
    batched = BatchedTransformer(transformer)(
        latents, torch.tensor([0.5]), embeds, torch.tensor([32]), origin=(4, 7)
    )
    packed = PackedTransformer(transformer, build_attention("sdpa", torch.device("cpu")))
    tile = PackedItem(
        latents[0], 0.5, packed.encode_caption(embeds[0]), PositionGrid(row_origin=4, col_origin=7)
    )
    expected = packed.predict_velocity([tile])[0]
    # `predict_velocity` has the schedule's sign, the class the opposite one.
    torch.testing.assert_close(batched[0], -expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_encoder_without_its_last_layer_gives_the_second_last_hidden_state() -> None:
    torch.manual_seed(0)
    encoder, token_ids = build_text_encoder(), torch.randint(0, 1024, (2, 20))
    whole = encoder(token_ids, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(drop_unread_layer(encoder)(token_ids).last_hidden_state, whole)


@pytest.mark.parametrize("shape", [(3, 16, 48), (2, 48, 16)])
def test_orthogonalising_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
    assert values.min() > 0.5
    assert values.max() < 1.5


def optimise(model: nn.Linear, optimizer: FlatOptimizer, steps: int) -> float:
    target, inputs = torch.eye(8), torch.eye(8)
    loss = torch.zeros(())
    for _ in range(steps):
        loss = (model(inputs) - target).square().mean()
        torch.autograd.backward(loss)
        optimizer.step(0.02)
    return loss.item()


def build_optimizer(model: nn.Linear) -> FlatOptimizer:
    weight, bias = nn.Parameter(model.weight), nn.Parameter(model.bias)
    model.weight, model.bias = weight, bias
    return FlatOptimizer([weight], [bias], OptimizerSettings(), lambda _: None)


def test_the_optimizer_lowers_a_loss() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    optimizer = build_optimizer(model)
    first = optimise(model, optimizer, 1)
    assert optimise(model, optimizer, 200) < 0.1 * first


def test_a_resumed_optimizer_goes_on_as_if_it_had_not_stopped() -> None:
    torch.manual_seed(0)
    model, resumed = nn.Linear(8, 8), nn.Linear(8, 8)
    optimizer = build_optimizer(model)
    optimise(model, optimizer, 5)
    other = build_optimizer(resumed)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimise(model, optimizer, 5)
    optimise(resumed, other, 5)
    assert torch.equal(model.weight, resumed.weight)
    assert torch.equal(model.bias, resumed.bias)


@pytest.mark.parametrize("number", range(40))
def test_batches_have_sizes_of_the_domain(number: int) -> None:
    shape = shape_of_batch(number, 0, 50_000)
    low, high = MIN_PATCHES * PATCH_PIXELS, MAX_PATCHES * PATCH_PIXELS
    assert low <= min(shape.height, shape.width) <= max(shape.height, shape.width) <= high
    assert max(shape.height, shape.width) <= 2 * min(shape.height, shape.width)


def test_captioned_batches_fill_their_length_and_repeat_with_the_seed() -> None:
    maker = CaptionedBatchMaker(EMBEDDED_MODEL / "tokenizer", rank=0, seed=0)
    first, again = maker.make(0, 4000), maker.make(0, 4000)
    length = first.shape.caption_length
    assert ((first.lengths > length - 32) & (first.lengths <= length)).all()
    assert (first.token_ids == again.token_ids).all()
    assert (first.drawing.marks == again.drawing.marks).all()


def double(number: int) -> int:
    return 2 * number


def test_workers_answer_in_order_from_where_they_are_told() -> None:
    with Workers(2) as workers:
        answers = workers.run(double, first=3)
        assert [next(answers) for _ in range(20)] == [2 * n for n in range(3, 23)]


def test_most_sigmas_are_those_of_the_eight_steps() -> None:
    sigmas = draw_sigmas(2000, 0.8, torch.device("cpu"))
    steps = torch.tensor(build_schedule(8).sigmas[:-1])
    share = (sigmas[:, None] == steps).any(dim=1).float().mean()
    assert 0.75 < share < 0.85


def test_rates_rise_from_little_and_end_at_nothing() -> None:
    assert trapezoid_rate(0, 0.0) < 0.01
    assert cosine_rate(0, 1000) < 0.02
    assert trapezoid_rate(400, 0.4) == 1.0
    assert trapezoid_rate(1000, 1.0) == cosine_rate(1000, 1000) == 0.0


def test_a_run_by_the_clock_goes_on_where_it_was_and_ends_when_told() -> None:
    clock = iter([100.0, 110.0, 500.0])
    progress = ByClock(0.25, 40.0, now=lambda: next(clock))
    assert progress(0) == 0.5
    assert progress(1) == 1.0
    assert to_the_end(0.6, 20.0).seconds == pytest.approx(50.0)


@torch.no_grad()
def test_the_batched_encoder_is_the_class_own_forward() -> None:
    torch.manual_seed(0)
    encoder = drop_unread_layer(build_text_encoder())
    token_ids = torch.randint(0, 1024, (3, 32))
    torch.testing.assert_close(
        BatchedEncoder(encoder)(token_ids),
        encoder(token_ids).last_hidden_state,
        rtol=1e-4,
        atol=1e-5,
    )


def test_walks_take_the_steps_of_the_schedule_and_end_at_the_picture() -> None:
    torch.manual_seed(0)
    pictures, choices = torch.randn(5, 16, 8, 8), torch.rand(5, NUM_CHOICES)
    walk = Walk.begin(pictures, choices)
    walk.steps = torch.full((5,), 3)
    walk.latents = noise_pictures(pictures, choices, walk.sigma)
    velocity = (walk.latents - pictures) / walk.sigma[:, None, None, None]
    for _ in range(NUM_STEPS - 1 - 3):
        walk.advance(-velocity, pictures, choices)
    assert (walk.steps == NUM_STEPS - 1).all()
    left = walk.latents - walk.sigma[:, None, None, None] * velocity
    torch.testing.assert_close(left, pictures, rtol=1e-4, atol=1e-4)


def test_a_walk_begins_again_from_noise_that_tells_the_layout() -> None:
    torch.manual_seed(0)
    pictures, choices = torch.randn(5, 16, 8, 8), torch.rand(5, NUM_CHOICES)
    walk = Walk.begin(pictures, choices)
    walk.steps = torch.full((5,), NUM_STEPS - 1)
    walk.advance(torch.zeros_like(pictures), pictures, choices)
    assert (walk.steps == 0).all()
    torch.testing.assert_close(read_choices(walk.latents), choices, rtol=1e-3, atol=1e-4)


def test_a_restart_mixes_both_drawings_with_noise_that_tells_nothing() -> None:
    torch.manual_seed(0)
    pictures, coarse = torch.ones(200, 16, 8, 8), torch.zeros(200, 16, 8, 8)
    sigma = draw_restart_sigmas(200, torch.device("cpu"))
    assert sigma.max() <= build_schedule(NUM_STEPS).sigmas[4]
    assert sigma.min() > 0

    restarted = restart_pictures(pictures, coarse, sigma)
    clean = restart_pictures(pictures, coarse, torch.zeros(200))
    noise = restart_pictures(pictures, coarse, torch.ones(200))

    assert clean.min() >= 0
    assert clean.max() <= 1
    assert clean.flatten(1).std(dim=1).max() < 1e-6
    assert clean.flatten(1).mean(dim=1).std() > 0.2
    assert abs(float(read_choices(noise).mean()) - 0.5) < 0.05
    assert float(restarted.std()) > float(clean.std())


def test_training_stops_at_the_end_and_its_state_holds_what_it_learned() -> None:
    torch.manual_seed(0)
    maker = CaptionedBatchMaker(EMBEDDED_MODEL / "tokenizer", rank=0, seed=0)
    batches = [maker.make(16, 2000)] * 100
    training, resumed = build_training(), build_training()
    training.run(iter(batches), by_steps(20))
    assert training.progress == 1.0
    assert training.step == 20
    assert training.batches_taken > 1
    resumed.load_state_dict(copy.deepcopy(training.state_dict()))
    torch.testing.assert_close(flatten(resumed), flatten(training))
    assert (flatten(build_training()) != flatten(training)).any()


def build_training() -> DenoiserTraining:
    torch.manual_seed(1)
    vae = build_vae()
    vae.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    transformer = ZImageTransformer2DModel(
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=1,
        n_kv_heads=1,
        cap_feat_dim=192,
        axes_dims=[8, 12, 12],
        axes_lens=[256, 64, 64],
    )
    encoder = drop_unread_layer(build_text_encoder())
    settings = DenoiserSettings(num_held=2, uses=2, walk_from=0.5)
    ranks = Ranks(0, 1, torch.device("cpu"))
    return DenoiserTraining(vae, encoder, transformer, settings, ranks, is_compiled=False)


def flatten(training: DenoiserTraining) -> Tensor:
    master: Tensor = training.state_dict()["optimizer"]["master"]
    return master
