"""Pictures are decoded whole where memory allows, in tiles above, and the pixels are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import InvalidRequestError
from pipeline.memory import VAE_FULL, VAE_TILED, DecodeMode
from pipeline.vae.fitting import FittingVaeDecoder
from pipeline.vae.tiled import TiledVaeDecoder, VaeTilingOptions
from pipeline.vae_decoder import FullImageVaeDecoder
from pipeline.weights import load_vae, resolve_weights

OPTIONS = VaeTilingOptions(tile_size=20)
BUDGET_GIB = 1.2
"""Of a 640x640 picture, that is 1,600 tokens, the whole does not fit and its tiles do."""


@pytest.fixture(scope="module")
def vae(tiny_model: Path) -> Any:
    weights = resolve_weights(str(tiny_model))
    return load_vae(weights, device=torch.device("cpu"), dtype=torch.float32)


def draw_latents(height: int, width: int) -> Tensor:
    return torch.randn(1, 16, height, width, generator=torch.Generator().manual_seed(2))


def test_what_fits_is_decoded_whole(vae: Any) -> None:
    latents = draw_latents(30, 40)
    decoder = FittingVaeDecoder(vae, budget_gib=BUDGET_GIB, options=OPTIONS)

    assert VAE_FULL.peak_gib(15 * 20) <= BUDGET_GIB
    assert torch.equal(decoder.decode(latents), FullImageVaeDecoder(vae).decode(latents))


def test_what_does_not_fit_is_decoded_in_tiles_to_the_same_pixels(vae: Any) -> None:
    latents = draw_latents(80, 88)
    decoder = FittingVaeDecoder(vae, budget_gib=BUDGET_GIB, options=OPTIONS)
    pixels = decoder.decode(latents)
    whole = FullImageVaeDecoder(vae).decode(latents)

    assert VAE_FULL.peak_gib(40 * 44) > BUDGET_GIB >= VAE_TILED.peak_gib(40 * 44)
    assert torch.equal(pixels, TiledVaeDecoder(vae, OPTIONS).decode(latents))
    assert int((pixels.int() - whole.int()).abs().max()) <= 1


@pytest.mark.parametrize(
    ("mode", "decoder"),
    [
        (DecodeMode.AUTO, FullImageVaeDecoder),
        (DecodeMode.FULL_IMAGE, FullImageVaeDecoder),
        (DecodeMode.TILED, TiledVaeDecoder),
    ],
)
def test_without_a_budget_the_mode_decides(vae: Any, mode: DecodeMode, decoder: Any) -> None:
    latents = draw_latents(72, 72)
    decoded = FittingVaeDecoder(vae, mode=mode).decode(latents)

    assert torch.equal(decoded, decoder(vae).decode(latents))


def test_a_picture_that_fits_in_no_way_is_refused(vae: Any) -> None:
    decoder = FittingVaeDecoder(vae, budget_gib=1.1)

    with pytest.raises(InvalidRequestError, match=r"size must fit in 1\.10 GiB, the largest of"):
        decoder.decode(draw_latents(512, 512))
