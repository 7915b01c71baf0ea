"""The packed forward gives each item what the model alone gives it."""

from itertools import pairwise

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor

from pipeline.acceleration.attention import build_attention
from pipeline.denoising.packing import BucketGrid
from pipeline.denoising.positions import PositionGrid
from pipeline.denoising.transformer import PackedItem, PackedTransformer
from pipeline.errors import InvalidRequestError
from tests.pipeline.denoising.tiny import build_tiny_transformer, draw_encoding, pack

# Latent height and width, prompt tokens, model time: pads of image and caption from 0 to 31.
SHAPES = [
    (8, 8, 5, 0.0),
    (16, 24, 40, 0.3),
    (40, 32, 32, 0.77),
    (64, 64, 70, 0.95),
    (10, 14, 1, 0.5),
]


def _draw_latents(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(16, height, width, generator=generator)


def _build_items(transformer: PackedTransformer) -> list[PackedItem]:
    return [
        PackedItem(
            _draw_latents(height, width),
            model_time,
            transformer.encode_caption(draw_encoding(num_tokens).prompt_embeds),
        )
        for height, width, num_tokens, model_time in SHAPES
    ]


def _predict_stock(
    model: ZImageTransformer2DModel,
    latents: Tensor,
    model_time: float,
    prompt_embeds: Tensor,
    residuals: dict[int, Tensor] | None = None,
) -> Tensor:
    with torch.no_grad():
        predicted: Tensor = model(
            [latents.to(model.dtype).unsqueeze(1)],
            torch.tensor([model_time]),
            [prompt_embeds.to(model.dtype)],
            return_dict=False,
            controlnet_block_samples=residuals,
        )[0][0]
    return -predicted.squeeze(1).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_item_of_a_mixed_forward_equals_the_item_alone(dtype: torch.dtype) -> None:
    transformer = pack(build_tiny_transformer(dtype))
    items = _build_items(transformer)
    alone = [transformer.predict_velocity([item])[0] for item in items]

    together = transformer.predict_velocity(items)

    assert all(map(torch.equal, together, alone))


def test_company_does_not_matter_when_threads_cut_rows_apart() -> None:
    # 341 hidden columns of the feed-forward: no thread's piece ends where a vector does.
    model = build_tiny_transformer(dim=128, n_heads=4)
    transformer = pack(model)
    torch.set_num_threads(3)
    items = _build_items(transformer)[:3] * 3
    together = transformer.predict_velocity(items)
    alone = [transformer.predict_velocity([item])[0] for item in items]
    torch.set_num_threads(1)

    assert all(map(torch.equal, together, alone))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_bucket_of_fixed_shape_changes_no_byte(
    model: ZImageTransformer2DModel, transformer: PackedTransformer, count: int
) -> None:
    attention = build_attention("sdpa", torch.device("cpu"))
    bucketed = PackedTransformer(model, attention, buckets=BucketGrid(256, 128))
    items = _build_items(transformer)[:count]

    pairs = zip(bucketed.predict_velocity(items), transformer.predict_velocity(items), strict=True)

    assert all(torch.equal(padded, exact) for padded, exact in pairs)


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_an_item_is_within_1e_4_of_the_stock_forward(
    model: ZImageTransformer2DModel, transformer: PackedTransformer, index: int
) -> None:
    height, width, num_tokens, model_time = SHAPES[index]
    embeds = draw_encoding(num_tokens).prompt_embeds
    expected = _predict_stock(model, _draw_latents(height, width), model_time, embeds)

    velocity = transformer.predict_velocity(_build_items(transformer))[index]

    assert torch.allclose(velocity, expected, rtol=0, atol=1e-4)


def test_a_residual_is_added_after_its_layer_to_its_item_only(
    model: ZImageTransformer2DModel, transformer: PackedTransformer
) -> None:
    embeds, latents = draw_encoding(9).prompt_embeds, _draw_latents(16, 16)
    residual = torch.randn(64 + 32, model.config.dim, generator=torch.Generator().manual_seed(3))
    caption = transformer.encode_caption(embeds)
    plain = PackedItem(latents, 0.4, caption)
    controlled = PackedItem(latents, 0.4, caption, residuals={1: residual})
    expected = _predict_stock(model, latents, 0.4, embeds, {1: residual})

    untouched, changed = transformer.predict_velocity([plain, controlled])

    assert torch.allclose(changed, expected, rtol=0, atol=1e-4)
    assert torch.equal(untouched, transformer.predict_velocity([plain])[0])


def test_positions_move_an_item_across_the_canvas(transformer: PackedTransformer) -> None:
    caption = transformer.encode_caption(draw_encoding(9).prompt_embeds)
    grids = [
        PositionGrid(),
        PositionGrid(row_origin=4),
        PositionGrid(col_origin=4),
        PositionGrid(col_origin=4.5),
        PositionGrid(spacing=0.5),
    ]
    items = [PackedItem(_draw_latents(16, 16), 0.4, caption, grid) for grid in grids]

    velocities = transformer.predict_velocity(items)

    assert not any(torch.equal(one, other) for one, other in pairwise(velocities))


@pytest.mark.parametrize("shape", [(16, 7, 8), (16, 8, 0), (4, 8, 8), (1, 16, 8, 8)])
def test_latents_of_another_shape_are_refused(
    transformer: PackedTransformer, shape: tuple[int, ...]
) -> None:
    caption = transformer.encode_caption(draw_encoding(9).prompt_embeds)

    with pytest.raises(InvalidRequestError, match="latents must be"):
        transformer.predict_velocity([PackedItem(torch.zeros(shape), 0.5, caption)])


@pytest.mark.parametrize("shape", [(0, 32), (993, 32), (9, 31), (32,)])
def test_prompt_embeds_of_another_shape_are_refused(
    transformer: PackedTransformer, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidRequestError, match="prompt_embeds must be"):
        transformer.encode_caption(torch.zeros(shape))
