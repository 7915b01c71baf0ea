"""The true VAE's tiled decode stays within its memory; counted on fake tensors of true size."""

import pytest
import torch
from allocation_tracker import DEVICE, HOST, track_allocations
from true_size import build_vae

from pipeline.vae.tiled import ALL_ON_DEVICE, TiledVaeDecoder, VaeTilingOptions

GIB = 2**30
TILE_GIB = 0.8
"""What one tile of 64 latents takes on its way, and a chunk of the mid block's scores."""


def peak_gib(pixels: int, options: VaeTilingOptions) -> dict[str, float]:
    vae = build_vae(torch.device("cpu"), torch.bfloat16)
    latents = torch.empty(1, 16, pixels // 8, pixels // 8)
    peaks = track_allocations(
        vae, lambda: TiledVaeDecoder(vae, options).decode_image(latents), dtype=torch.bfloat16
    )
    return {place: num_bytes / GIB for place, num_bytes in peaks.items()}


@pytest.mark.parametrize("pixels", [2048, 4096])
def test_the_peak_is_a_tile_and_at_most_2_5_gib_at_4096_falling_with_the_area(
    pixels: int,
) -> None:
    peaks = peak_gib(pixels, VaeTilingOptions())

    assert peaks[DEVICE] <= TILE_GIB + 2.5 * (pixels / 4096) ** 2
    assert peaks[HOST] <= 9 * (pixels / 4096) ** 2 + 0.2


def test_with_room_on_the_device_nothing_waits_on_the_host() -> None:
    options = VaeTilingOptions(device_bytes_per_latent=ALL_ON_DEVICE)

    assert peak_gib(1024, options)[HOST] == 0
