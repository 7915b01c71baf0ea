import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embedded.scenes.layout import place
from pipeline.embedded.scenes.sampling import sample_scene
from pipeline.embedded.training.coupling import NUM_CHOICES, Choices, couple
from tests.pipeline.embedded.pictures import read_choices


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 32), (32, 18)])
def test_noise_tells_the_choices_at_any_size(height: int, width: int) -> None:
    torch.manual_seed(0)
    choices = torch.rand(6, NUM_CHOICES)
    noise = couple(torch.randn(6, 16, height, width), choices)
    torch.testing.assert_close(read_choices(noise), choices, rtol=1e-3, atol=1e-4)


def test_coupled_noise_is_normal_still() -> None:
    torch.manual_seed(0)
    noise = couple(torch.randn(4000, 16, 4, 4), torch.rand(4000, NUM_CHOICES)).flatten(1)
    assert noise.mean(dim=0).abs().max() < 0.08
    covariance = noise.T @ noise / len(noise)
    assert (covariance - torch.eye(256)).abs().max() < 0.12


def test_coupling_changes_nothing_but_what_is_told() -> None:
    torch.manual_seed(0)
    noise = torch.randn(3, 16, 8, 8)
    told = read_choices(noise)
    torch.testing.assert_close(couple(noise, told), noise, rtol=1e-3, atol=1e-3)


@given(st.integers(0, 2**32))
def test_no_layout_asks_for_more_choices_than_noise_tells(seed: int) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    values = [rng.random() for _ in range(NUM_CHOICES)]
    first = place(scene, 256, 256, Choices(values))
    assert first == place(scene, 256, 256, Choices(values))
