"""Noise drawn ahead is the noise that is drawn when asked."""

import pytest
import torch

from pipeline.denoising.noise import NoiseSource
from pipeline.latents import draw_noise
from pipeline.request import ImageSize

SIZE = ImageSize(64, 96)


def test_noise_drawn_ahead_has_the_bytes_of_its_seed() -> None:
    source = NoiseSource(torch.device("cpu"))
    begun = [source.begin(SIZE, seed=seed) for seed in (7, 2**40)]

    drawn = [each.result(timeout=60) for each in begun]

    expected = [draw_noise(SIZE, seed=seed)[0] for seed in (7, 2**40)]
    assert all(torch.equal(one, other) for one, other in zip(drawn, expected, strict=True))
    source.close()


def test_a_source_that_is_closed_draws_nothing() -> None:
    source = NoiseSource(torch.device("cpu"))
    source.close()

    with pytest.raises(RuntimeError, match="shutdown"):
        source.begin(SIZE, seed=0)
