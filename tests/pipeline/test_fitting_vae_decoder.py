"""Pictures are decoded whole where memory allows, in tiles above, and the pixels are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.acceleration.options import BlockKernels
from pipeline.errors import InvalidRequestError
from pipeline.memory import VAE_FULL, VAE_FUSED, VAE_TILED, DecodeMode, choose_decode
from pipeline.networks import load_vae
from pipeline.request import ImageSize
from pipeline.vae.fitting import FittingVaeDecoder, plan_waiting
from pipeline.vae.tiled import ALL_ON_DEVICE, TiledVaeDecoder, VaeTilingOptions
from pipeline.vae_decoder import FullImageVaeDecoder
from pipeline.weights import resolve_weights

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


@pytest.mark.parametrize("budget_gib", [4.0, 6.0, 11.5])
def test_tiles_that_wait_fill_what_the_budget_leaves(budget_gib: float) -> None:
    size = ImageSize(4096, 4096)
    waiting = plan_waiting(size, VaeTilingOptions(), budget_gib=budget_gib)
    waiting_gib = waiting * 512 * 512 / 2**30

    assert VAE_TILED.fixed_gib + waiting_gib <= budget_gib
    assert waiting >= VaeTilingOptions().device_bytes_per_latent


def test_without_a_budget_all_tiles_wait_on_the_device() -> None:
    waiting = plan_waiting(ImageSize(64, 64), VaeTilingOptions(), budget_gib=None)

    assert waiting == ALL_ON_DEVICE


def test_fused_kernels_decode_whole_what_modules_decode_in_tiles() -> None:
    size = ImageSize(2048, 2048)
    modes = [
        choose_decode(size, DecodeMode.AUTO, budget_gib=6.0, kernels=kernels)
        for kernels in (BlockKernels.MODULES, BlockKernels.FUSED)
    ]

    assert modes == [DecodeMode.TILED, DecodeMode.FULL_IMAGE]


@pytest.mark.parametrize("num_tokens", [1024, 4096, 16384, 65536])
def test_what_is_let_through_for_modules_also_fits_fused_kernels(num_tokens: int) -> None:
    assert VAE_FUSED.peak_gib(num_tokens) < VAE_FULL.peak_gib(num_tokens)


def test_the_fingerprint_says_how_a_size_is_decoded(vae: Any) -> None:
    decoder = FittingVaeDecoder(vae, budget_gib=BUDGET_GIB, options=OPTIONS)
    small, large = (decoder.fingerprint(ImageSize(side, side)) for side in (256, 704))

    assert small.startswith("full_image/modules/cpu-")
    assert large.startswith("tiled/modules/cpu-")
    assert small.endswith(f"/float32/threads-{torch.get_num_threads()}")
