"""Previews are cheap pictures of the predicted x0."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.denoising.preview import LatentPreview, choose_preview_steps


def test_the_fit_finds_a_linear_decoder() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 8, 8, generator=generator)
    factors, bias = torch.randn(16, 3, generator=generator), torch.tensor([0.1, -0.2, 0.3])
    colours = torch.einsum("nchw,cr->nrhw", latents, factors) + bias[:, None, None]
    pixels = colours.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)

    preview = LatentPreview.fit(latents, pixels)

    assert torch.allclose(preview.factors, factors, atol=1e-4)
    assert torch.allclose(preview.bias, bias, atol=1e-4)


def test_zero_latents_have_the_colour_of_the_bias() -> None:
    preview = LatentPreview(torch.ones(16, 3), torch.tensor([-1.0, 0.0, 1.0]))

    picture = preview.draw(torch.zeros(16, 4, 6))

    assert picture.dtype == torch.uint8
    assert torch.equal(picture[:, 0, 0], torch.tensor([0, 128, 255], dtype=torch.uint8))
    assert picture.shape == (3, 4, 6)


def test_the_map_of_flux_reads_sixteen_channels() -> None:
    assert LatentPreview.of_flux_vae().draw(torch.zeros(16, 2, 2)).shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("steps", "previews", "expected"),
    [(8, 0, set()), (8, 1, {4}), (8, 3, {2, 4, 6}), (2, 3, {1}), (1, 2, set())],
)
def test_previews_are_evenly_spaced(steps: int, previews: int, expected: set[int]) -> None:
    assert choose_preview_steps(steps, previews) == expected


@given(st.integers(1, 50), st.integers(0, 10))
def test_the_last_step_has_no_preview(steps: int, previews: int) -> None:
    assert choose_preview_steps(steps, previews) <= set(range(1, steps))
