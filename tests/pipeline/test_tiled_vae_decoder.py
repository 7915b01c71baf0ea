"""The tiled decode is the untiled one, on diffusers' real decoder of tiny size."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from random_vae import build_vae, randomise
from torch import Tensor, nn

from pipeline.vae.mid_block import attend_in_chunks
from pipeline.vae.moments import ChannelMap, gather_moments, merge_moments
from pipeline.vae.parking import ParkedState
from pipeline.vae.planes import Plane, TorchPlaneOps
from pipeline.vae.segments import TileState, build_segments, plan_margins
from pipeline.vae.tiled import (
    TiledVaeDecoder,
    TileShare,
    VaeTilingOptions,
    cut_window,
    join_pixels,
)
from pipeline.vae.tiles import Margins, plan_decode_tiles

SMALL_TILES = VaeTilingOptions(tile_size=20, halo=16)


@pytest.fixture(scope="module")
def vae() -> Any:
    return build_vae()


def draw_latents(height: int, width: int) -> Tensor:
    """Latents whose left half is much louder: a tile's own statistics would be wrong."""
    latents = torch.randn(1, 16, height, width, generator=torch.Generator().manual_seed(4))
    latents[..., : width // 2] *= 3
    return latents


@torch.inference_mode()
def decode_untiled(vae: Any, latents: Tensor) -> Tensor:
    scaled = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)
    image: Tensor = vae.decode(scaled).sample[0]
    return image


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (48, 72, SMALL_TILES),
        (64, 64, VaeTilingOptions(tile_size=32, halo=13)),
        (10, 90, VaeTilingOptions(tile_size=7)),
        (22, 34, VaeTilingOptions()),
        (40, 40, VaeTilingOptions(tile_size=20, device_bytes_per_latent=0)),
    ],
)
def test_the_tiled_decode_equals_the_untiled_to_float_error(
    vae: Any, height: int, width: int, options: VaeTilingOptions
) -> None:
    latents = draw_latents(height, width)

    torch.testing.assert_close(
        TiledVaeDecoder(vae, options).decode_image(latents),
        decode_untiled(vae, latents),
        rtol=0,
        atol=1e-5,
    )


def test_the_latents_of_another_family_are_scaled_as_it_has_them() -> None:
    vae = build_vae(shift_factor=None, use_post_quant_conv=True)
    latents = draw_latents(40, 40)

    torch.testing.assert_close(
        TiledVaeDecoder(vae, SMALL_TILES).decode_image(latents),
        decode_untiled(vae, latents),
        rtol=0,
        atol=1e-5,
    )


def test_in_bfloat16_the_tiled_decode_is_as_close_to_float32_as_the_untiled(vae: Any) -> None:
    latents = draw_latents(40, 56)
    exact = decode_untiled(vae, latents)
    half = AutoencoderKL.from_config(vae.config)
    half.load_state_dict(vae.state_dict())
    half.to(torch.bfloat16)
    untiled = decode_untiled(half, latents.bfloat16()).float()
    tiled = TiledVaeDecoder(half, SMALL_TILES).decode_image(latents)

    assert float((tiled - exact).square().mean()) < 1.1 * float((untiled - exact).square().mean())


def gradients_at(image: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """Mean absolute step across the given borders."""
    down = (image[:, rows] - image[:, [row - 1 for row in rows]]).abs().mean()
    across = (image[..., columns] - image[..., [column - 1 for column in columns]]).abs().mean()
    return torch.stack([down, across])


def test_the_gradient_at_tile_borders_is_that_of_the_untiled_picture(vae: Any) -> None:
    latents = draw_latents(60, 40)
    rows, columns = [160, 320], [160]
    tiled = gradients_at(TiledVaeDecoder(vae, SMALL_TILES).decode_image(latents), rows, columns)
    untiled = gradients_at(decode_untiled(vae, latents), rows, columns)

    assert bool((tiled <= 1.05 * untiled).all())


def test_statistics_of_a_tile_alone_would_show(vae: Any) -> None:
    latents = draw_latents(48, 72)
    tiles = plan_decode_tiles(48, 72, tile_size=20, halo=16)
    share = TileShare(vae.decoder, TorchPlaneOps(), SMALL_TILES)
    plane = TiledVaeDecoder(vae, SMALL_TILES).run_whole(latents)
    gathered = share.start(tiles, [cut_window(plane, tile) for tile in tiles])
    while not share.is_done:
        gathered = share.advance(gathered[0])
    seamed = join_pixels(tiles, share.pixels(), 48, 72)

    assert float((seamed - decode_untiled(vae, latents)).abs().max()) > 0.1


def test_the_picture_is_bit_for_bit_the_same_however_tiles_are_dealt(vae: Any) -> None:
    latents = draw_latents(48, 72)
    decoder = TiledVaeDecoder(vae, SMALL_TILES)
    tiles, plane = decoder.plan(latents), decoder.run_whole(latents)
    windows = [cut_window(plane, tile) for tile in tiles]
    left, right = (
        TileShare(vae.decoder, TorchPlaneOps(), SMALL_TILES),
        TileShare(vae.decoder, TorchPlaneOps(), SMALL_TILES),
    )
    gathered = left.start(tiles[:3], windows[:3]) + right.start(tiles[3:], windows[3:])
    while not right.is_done:
        moments = merge_moments(gathered)
        gathered = left.advance(moments) + right.advance(moments)
    spread = join_pixels(tiles, left.pixels() + right.pixels(), 48, 72)

    assert torch.equal(spread, decoder.decode_image(latents))


def test_pixels_are_uint8_rows_columns_colours(vae: Any) -> None:
    latents = draw_latents(24, 32)
    pixels = TiledVaeDecoder(vae, SMALL_TILES).decode(latents)
    expected = ((decode_untiled(vae, latents) + 1) * 127.5).clamp(0, 255).permute(1, 2, 0)

    assert pixels.shape == (192, 256, 3)
    assert pixels.dtype == torch.uint8
    assert float((pixels.float() - expected).abs().max()) <= 0.5 + 1e-3


def test_decoding_leaves_the_decoder_as_it_was(vae: Any) -> None:
    latents = draw_latents(48, 72)
    before = decode_untiled(vae, latents)
    TiledVaeDecoder(vae, SMALL_TILES).decode_image(latents)

    assert torch.equal(decode_untiled(vae, latents), before)


def test_the_true_decoder_reaches_13_latents(vae: Any) -> None:
    assert plan_margins(build_segments(vae.decoder, TorchPlaneOps()))[0] == 13


def test_a_halo_below_the_reach_is_refused(vae: Any) -> None:
    with pytest.raises(ValueError, match="halo must be at least 13, got 12"):
        TiledVaeDecoder(vae, VaeTilingOptions(halo=12))


def test_another_kind_of_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="resnets must be GroupNorm, SiLU and convolutions"):
        TiledVaeDecoder(build_vae(act_fn="gelu"))


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (1, 1, 2900, 2900)])
def test_a_parked_state_comes_back_as_it_was(on_host: bool, shape: tuple[int, ...]) -> None:
    hidden = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    bias = torch.arange(shape[1])
    residual = (hidden + 1).contiguous(memory_format=torch.channels_last)
    state = TileState(Plane(hidden, bias), Plane(residual), Margins(1, 2, 3, 4))
    fetched = ParkedState.park(state, on_host=on_host).fetch()

    assert torch.equal(fetched.hidden.hidden, hidden)
    assert fetched.hidden.bias is bias
    assert fetched.residual is not None
    assert torch.equal(fetched.residual.hidden, residual)
    assert fetched.residual.hidden.stride() == residual.stride()
    assert fetched.margins == state.margins


def test_a_state_parked_on_the_host_does_not_hold_on_to_the_tensor() -> None:
    hidden = torch.ones(1, 1, 4, 4)
    state = TileState(Plane(hidden), None, Margins(0, 0, 0, 0))
    parked = ParkedState.park(state, on_host=True)
    hidden.zero_()

    assert torch.equal(parked.fetch().hidden.hidden, torch.ones(1, 1, 4, 4))


@settings(deadline=None)
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    tile_size=st.integers(2, 64),
    halo=st.integers(0, 20),
)
def test_cores_part_the_plane_and_windows_stay_inside(
    height: int, width: int, tile_size: int, halo: int
) -> None:
    tiles = plan_decode_tiles(height, width, tile_size=tile_size, halo=halo)
    cover = torch.zeros(height, width)
    for tile in tiles:
        cover[tile.core(1)] += 1
    shapes = {cover[tile.window].shape for tile in tiles}

    assert torch.equal(cover, torch.ones(height, width))
    assert max(max(shape) for shape in shapes) <= tile_size + 2 * halo


@settings(deadline=None)
@given(
    cut=st.integers(1, 29),
    mean=st.floats(-1e3, 1e3),
    deviation=st.floats(1e-2, 10),
    seed=st.integers(0, 9),
)
def test_merged_moments_are_those_of_the_whole(
    cut: int, mean: float, deviation: float, seed: int
) -> None:
    plane = torch.randn(1, 6, 9, 30, generator=torch.Generator().manual_seed(seed))
    plane = mean + deviation * plane
    merged = merge_moments(
        [gather_moments(part, 3) for part in (plane[..., :cut], plane[..., cut:])]
    )
    variance, expected = torch.var_mean(plane.double().view(3, -1), dim=1, correction=0)

    torch.testing.assert_close(merged.mean, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(merged.squares / merged.count, variance, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_one_tile_is_normalised_as_torch_does(dtype: torch.dtype, atol: float) -> None:
    norm = nn.GroupNorm(4, 8, eps=1e-6)
    randomise(norm)
    plane = torch.randn(1, 8, 16, 16).mul(5).add(2).to(dtype)
    channels = ChannelMap.of_norm(norm, merge_moments([gather_moments(plane, 4)]))
    ours = TorchPlaneOps().norm_with(Plane(plane), channels).hidden

    torch.testing.assert_close(ours, F.silu(norm.to(dtype)(plane)), rtol=1e-2, atol=atol)


@pytest.mark.parametrize("rows", [1, 9, 100])
def test_attention_in_chunks_equals_the_plain_formula(rows: int) -> None:
    query, key, value = torch.randn(3, 70, 24, generator=torch.Generator().manual_seed(1))
    expected = (query @ key.T / 24**0.5).softmax(-1) @ value

    torch.testing.assert_close(
        attend_in_chunks(query, key, value, score_bytes=4 * 70 * rows), expected
    )
