"""A seed names one noise."""

import pytest
import torch

from pipeline.latents import draw_noise
from pipeline.request import MAX_SEED, ImageSize

SIZE = ImageSize(height=64, width=96)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_small_seed_gives_what_torch_gives(seed: int) -> None:
    expected = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw_noise(SIZE, seed=seed), expected)


@pytest.mark.parametrize("seed", [3, 2**32, MAX_SEED])
def test_the_same_seed_gives_the_same_noise(seed: int) -> None:
    assert torch.equal(draw_noise(SIZE, seed=seed), draw_noise(SIZE, seed=seed))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a CUDA device")
@pytest.mark.parametrize("seed", [3, MAX_SEED])
def test_pinned_noise_has_the_same_bytes(seed: int) -> None:
    noise = draw_noise(SIZE, seed=seed, pins=True)

    assert noise.is_pinned()
    assert torch.equal(noise, draw_noise(SIZE, seed=seed))


@pytest.mark.parametrize("other", [3 + 2**32, 3 + 2**33, 3 + 2**62])
def test_seeds_that_differ_in_high_bits_give_other_noise(other: int) -> None:
    assert not torch.equal(draw_noise(SIZE, seed=3), draw_noise(SIZE, seed=other))


@pytest.mark.parametrize("seed", [7, 2**40])
def test_noise_is_normal(seed: int) -> None:
    noise = draw_noise(ImageSize(1024, 1024), seed=seed)

    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
