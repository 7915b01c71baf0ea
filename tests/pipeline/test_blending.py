"""Windows sum to one, and blending does nothing where there is nothing to blend."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blending import TileBlender, feather_weights
from pipeline.request import ImageSize
from pipeline.tiling import TilePlan, plan_tiles, plan_whole

untimed = settings(deadline=None)
plans = st.builds(
    lambda height, width, tile, overlap: plan_tiles(
        2 * height, 2 * width, tile_size=8 * tile, overlap=min(2 * overlap, 8 * tile - 2)
    ),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    tile=st.integers(2, 12),
    overlap=st.integers(0, 24),
)


def crops(plan: TilePlan, plane: torch.Tensor) -> list[torch.Tensor]:
    return [plane[tile.region] for tile in plan.tiles]


@untimed
@given(plan=plans)
def test_weights_sum_to_one_everywhere(plan: TilePlan) -> None:
    ones = torch.ones(1, plan.height, plan.width)
    blended = TileBlender(plan).blend(crops(plan, ones))

    torch.testing.assert_close(blended, ones, rtol=0, atol=2e-6)


@untimed
@given(plan=plans)
def test_a_latent_under_one_tile_keeps_its_bits(plan: TilePlan) -> None:
    plane = torch.randn(3, plan.height, plan.width, generator=torch.Generator().manual_seed(0))
    cover = torch.zeros(plan.height, plan.width)
    for tile in plan.tiles:
        cover[tile.region[1:]] += 1
    blended = TileBlender(plan).blend(crops(plan, plane))

    assert torch.equal(blended[:, cover == 1], plane[:, cover == 1])


@untimed
@given(plan=plans)
def test_tiles_cut_from_one_plane_blend_back_to_it(plan: TilePlan) -> None:
    plane = torch.randn(3, plan.height, plan.width, generator=torch.Generator().manual_seed(1))

    torch.testing.assert_close(
        TileBlender(plan).blend(crops(plan, plane)), plane, rtol=0, atol=5e-6
    )


@untimed
@given(length=st.integers(1, 128).map(lambda quarter: 4 * quarter), overlap=st.integers(0, 24))
def test_weights_are_their_own_mirror_image(length: int, overlap: int) -> None:
    plan = plan_tiles(length, length, tile_size=64, overlap=2 * overlap)
    weights = feather_weights(plan.rows, plan.tile_height)

    torch.testing.assert_close(weights.flip(0, 1), weights, rtol=0, atol=1e-7)


def test_an_edge_of_the_picture_is_not_feathered() -> None:
    weights = feather_weights((0, 56), 72)

    assert torch.equal(weights[0, :56], torch.ones(56))
    assert torch.equal(weights[1, 16:], torch.ones(56))


def test_a_feather_falls_over_the_shared_latents() -> None:
    shared = feather_weights((0, 56), 72)[0, 56:]

    assert bool((shared.diff() < 0).all())
    assert 0 < float(shared[-1]) < 0.01


def test_one_tile_keeps_every_bit_and_the_sign_of_zero() -> None:
    plane = torch.tensor([[[-0.0, 0.0], [float("inf"), 1.5]]])
    blended = TileBlender(plan_whole(ImageSize(16, 16))).blend([plane])

    assert torch.equal(blended.view(torch.int32), plane.view(torch.int32))


def test_a_missing_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="values must be one a tile, 4, got 3"):
        TileBlender(plan_tiles(128, 128)).blend([torch.zeros(1, 72, 72)] * 3)
