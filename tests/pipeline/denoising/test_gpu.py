"""On a GPU in bfloat16: fused kernels, packed attention and recorded forwards change no byte."""

import pytest
import torch

from pipeline.acceleration.attention import build_attention
from pipeline.acceleration.options import Acceleration, BlockKernels, Precision
from pipeline.denoising.packing import SharingLimits
from pipeline.denoising.transformer import PackedItem, PackedTransformer
from pipeline.errors import AttentionUnavailableError
from tests.pipeline.denoising.tiny import build_tiny_transformer, draw_encoding

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # FlashAttention 4 uses names that its compiler is about to drop.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

# Latent height and width, prompt tokens, model time; the last has a forward of its own.
SHAPES = [(16, 16, 5, 0.0), (32, 24, 40, 0.3), (40, 32, 32, 0.77), (64, 64, 70, 0.95)]


@pytest.fixture(scope="module", params=list(BlockKernels))
def transformer(request: pytest.FixtureRequest) -> PackedTransformer:
    device = torch.device("cuda")
    return PackedTransformer(
        build_tiny_transformer(torch.bfloat16, dim=96, n_heads=3).to(device),
        build_attention("varlen", device),
        solo_attention=build_attention("cudnn", device),
        limits=SharingLimits(solo_rows=1024, max_rows=2048),
        acceleration=Acceleration(request.param, Precision.BFLOAT16),
    )


@pytest.fixture(scope="module")
def items(transformer: PackedTransformer) -> list[PackedItem]:
    generator = torch.Generator().manual_seed(0)
    return [
        PackedItem(
            torch.randn(16, height, width, generator=generator),
            model_time,
            transformer.encode_caption(draw_encoding(num_tokens).prompt_embeds),
        )
        for height, width, num_tokens, model_time in SHAPES
    ]


def test_items_together_equal_each_alone_whether_run_or_replayed(
    transformer: PackedTransformer, items: list[PackedItem]
) -> None:
    alone = [transformer.predict_velocity([item])[0] for item in items]
    assert transformer.shares_forwards

    # Eager, recorded, replayed.
    together = [transformer.predict_velocity(items) for _ in range(3)]

    assert all(torch.equal(a, b) for each in together for a, b in zip(each, alone, strict=True))


def test_a_caption_is_the_same_from_wherever_its_embeddings_are(
    transformer: PackedTransformer,
) -> None:
    embeds = draw_encoding(40).prompt_embeds

    # Eager, recorded, replayed.
    from_host = [transformer.encode_caption(embeds).rows for _ in range(3)]
    from_device = transformer.encode_caption(embeds.cuda()).rows

    assert all(torch.equal(rows, from_device) for rows in from_host)


def test_a_replay_reads_the_items_that_it_is_given(
    transformer: PackedTransformer, items: list[PackedItem]
) -> None:
    for _ in range(3):
        transformer.predict_velocity(items[:2])
    swapped = [
        PackedItem(item.latents.flip(-1), item.model_time, item.caption) for item in items[:2]
    ]
    expected = [transformer.predict_velocity([item])[0] for item in swapped]

    pairs = zip(transformer.predict_velocity(swapped), expected, strict=True)

    assert all(torch.equal(replayed, alone) for replayed, alone in pairs)


def test_a_kernel_that_reads_lengths_follows_those_of_each_forward() -> None:
    device = torch.device("cuda")
    transformer = PackedTransformer(
        build_tiny_transformer(torch.bfloat16, dim=96, n_heads=3).to(device),
        build_attention("cudnn", device),
        limits=SharingLimits(solo_rows=1024, max_rows=2048),
    )
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(16, 32, 32, generator=generator)
    short, long = (
        transformer.encode_caption(draw_encoding(num_tokens).prompt_embeds)
        for num_tokens in (20, 60)
    )
    for _ in range(3):
        transformer.predict_velocity([PackedItem(latents, 0.5, short)] * 2)
    item = PackedItem(latents, 0.5, long)

    together = transformer.predict_velocity([item] * 2)

    [alone] = transformer.predict_velocity([item])
    assert all(torch.equal(each, alone) for each in together)


@pytest.mark.parametrize("kernel", ["varlen", "flash4"])
def test_an_item_of_nan_leaves_its_neighbours_as_they_are(kernel: str) -> None:
    device = torch.device("cuda")
    try:
        attention = build_attention(kernel, device)
    except AttentionUnavailableError as exc:
        pytest.skip(str(exc))
    transformer = PackedTransformer(
        build_tiny_transformer(torch.bfloat16, dim=96, n_heads=3).to(device),
        attention,
        limits=SharingLimits(solo_rows=1024, max_rows=2048),
    )
    caption = transformer.encode_caption(draw_encoding(20).prompt_embeds)
    generator = torch.Generator().manual_seed(0)
    items = [
        PackedItem(torch.randn(16, 16, width, generator=generator), 0.5, caption)
        for width in (16, 24, 32)
    ]
    nan = PackedItem(torch.full((16, 24, 24), torch.nan), 0.5, caption)
    alone = [transformer.predict_velocity([item])[0] for item in items]

    first, second, poisoned, third = transformer.predict_velocity([*items[:2], nan, items[2]])

    pairs = zip((first, second, third), alone, strict=True)
    assert all(torch.equal(beside, by_itself) for beside, by_itself in pairs)
    assert not poisoned.isfinite().any()
