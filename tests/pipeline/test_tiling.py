"""Plans cover the plane with few tiles of one shape, evenly, and cost what they should."""

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_work import forward_flop, step_flop

from pipeline.request import ImageSize
from pipeline.tiling import (
    TRAINED_PATCHES,
    TilePlan,
    TilePositions,
    plan_tiles,
    plan_whole,
    shrink_to_area,
)

untimed = settings(deadline=None)
sides = st.integers(1, 256).map(lambda patches: 2 * patches)
tilings = st.integers(1, 16).flatmap(
    lambda eighths: st.tuples(
        st.just(8 * eighths), st.integers(0, 4 * eighths - 1).map(lambda patches: 2 * patches)
    )
)


def relative_work(plan: TilePlan) -> float:
    return step_flop(plan) / forward_flop(plan.height * plan.width // 4)


@pytest.mark.parametrize(
    ("pixels", "tflop"), [(512, 12.9), (768, 29.6), (1024, 55.6), (1536, 147), (2048, 319)]
)
def test_the_work_formula_gives_the_published_tflop(pixels: int, tflop: float) -> None:
    assert forward_flop((pixels // 16) ** 2) / 1e12 == pytest.approx(tflop, rel=5e-3)


def test_a_megapixel_is_two_by_two_tiles_of_72() -> None:
    plan = plan_tiles(128, 128)

    assert (plan.rows, plan.columns) == ((0, 56), (0, 56))
    assert (plan.tile_height, plan.tile_width) == (72, 72)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (64, 90), (2, 2)])
def test_what_fits_in_a_tile_is_one_tile_of_its_own_shape(height: int, width: int) -> None:
    assert plan_tiles(height, width) == plan_whole(ImageSize(8 * height, 8 * width))


@untimed
@given(height=sides, width=sides, tiling=tilings)
def test_no_latent_is_left_uncovered(height: int, width: int, tiling: tuple[int, int]) -> None:
    plan = plan_tiles(height, width, tile_size=tiling[0], overlap=tiling[1])
    covered_rows = {row + i for row in plan.rows for i in range(plan.tile_height)}
    covered_columns = {column + i for column in plan.columns for i in range(plan.tile_width)}

    assert covered_rows == set(range(height))
    assert covered_columns == set(range(width))


@untimed
@given(length=sides, tiling=tilings)
def test_neighbours_share_at_least_the_overlap(length: int, tiling: tuple[int, int]) -> None:
    plan = plan_tiles(length, length, tile_size=tiling[0], overlap=tiling[1])

    assert all(a + plan.tile_height - b >= tiling[1] for a, b in pairwise(plan.rows))


@untimed
@given(length=sides, tiling=tilings)
def test_tiles_begin_on_a_patch_and_are_no_larger_than_asked(
    length: int, tiling: tuple[int, int]
) -> None:
    plan = plan_tiles(length, length, tile_size=tiling[0], overlap=tiling[1])

    assert all(row % 2 == 0 for row in plan.rows)
    assert plan.tile_height <= tiling[0]


@untimed
@given(length=sides, tiling=tilings)
def test_one_tile_fewer_could_not_cover(length: int, tiling: tuple[int, int]) -> None:
    tile_size, overlap = tiling
    count = len(plan_tiles(length, length, tile_size=tile_size, overlap=overlap).rows)

    assert count == 1 or (count - 1) * (tile_size - overlap) + overlap < length


@untimed
@given(length=sides.filter(lambda side: side % 4 == 0), tiling=tilings)
def test_a_plan_is_its_own_mirror_image(length: int, tiling: tuple[int, int]) -> None:
    plan = plan_tiles(length, length, tile_size=tiling[0], overlap=tiling[1])
    mirrored = tuple(length - plan.tile_height - row for row in reversed(plan.rows))

    assert plan.rows == mirrored


@untimed
@given(height=sides, width=sides)
def test_a_transposed_picture_has_the_transposed_plan(height: int, width: int) -> None:
    plan, transposed = plan_tiles(height, width), plan_tiles(width, height)

    assert (plan.rows, plan.tile_height) == (transposed.columns, transposed.tile_width)


def test_work_is_at_most_1_45_times_the_pictures_own_from_1024_up() -> None:
    pairs = product(range(128, 513, 2), repeat=2)

    assert max(relative_work(plan_tiles(height, width)) for height, width in pairs) <= 1.45


def test_work_is_below_the_pictures_own_from_2048_up() -> None:
    pairs = product(range(256, 513, 8), repeat=2)

    assert max(relative_work(plan_tiles(height, width)) for height, width in pairs) < 1


def test_sides_that_do_not_divide_by_64_pixels_cost_at_most_2_5_percent_more_from_2048_up() -> None:
    pairs = product(range(256, 513, 2), repeat=2)

    assert max(relative_work(plan_tiles(height, width)) for height, width in pairs) <= 1.025


@pytest.mark.parametrize("overlap", [-2, 64, 66])
def test_overlap_must_leave_a_tile_room_of_its_own(overlap: int) -> None:
    with pytest.raises(ValueError, match=r"overlap must be in \[0, 64\)"):
        plan_tiles(128, 128, tile_size=64, overlap=overlap)


@pytest.mark.parametrize("tile_size", [0, -8, 60])
def test_tile_size_must_divide_by_8(tile_size: int) -> None:
    with pytest.raises(ValueError, match="tile_size must be positive and divide by 8"):
        plan_tiles(128, 128, tile_size=tile_size, overlap=16)


@pytest.mark.parametrize(
    ("height", "width", "overlap"), [(127, 128, 16), (128, 127, 16), (128, 128, 15)]
)
def test_lengths_must_be_whole_patches(height: int, width: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="must divide by 2 latent pixels"):
        plan_tiles(height, width, overlap=overlap)


@untimed
@given(length=sides)
def test_compressed_positions_stay_in_the_trained_range(length: int) -> None:
    plan = plan_tiles(length, length)
    origins = [plan.position_origin(tile, TilePositions.COMPRESSED) for tile in plan.tiles]

    assert max(row for row, _ in origins) + plan.tile_height // 2 <= TRAINED_PATCHES
    assert sorted(origins) == origins


@pytest.mark.parametrize("positions", [TilePositions.TRUE, TilePositions.COMPRESSED])
def test_positions_inside_the_trained_range_are_the_true_ones(positions: TilePositions) -> None:
    plan = plan_tiles(256, 128)
    origins = [plan.position_origin(tile, positions) for tile in plan.tiles]

    assert origins == [(tile.row // 2, tile.column // 2) for tile in plan.tiles]


def test_local_positions_begin_at_the_origin() -> None:
    plan = plan_tiles(256, 256)

    assert {plan.position_origin(tile, TilePositions.LOCAL) for tile in plan.tiles} == {(0, 0)}


@untimed
@given(
    height=st.integers(16, 256), width=st.integers(16, 256), max_pixels=st.integers(2**18, 2**20)
)
def test_a_base_is_within_its_area_and_shaped_like_the_picture(
    height: int, width: int, max_pixels: int
) -> None:
    size = ImageSize(16 * height, 16 * width)
    base = shrink_to_area(size, max_pixels=max_pixels)

    assert base is not None
    assert base.height * base.width <= max_pixels
    assert base.width * size.height / (base.height * size.width) == pytest.approx(1, rel=0.12)


@pytest.mark.parametrize(
    ("size", "base"),
    [
        (ImageSize(1024, 1024), ImageSize(768, 768)),
        (ImageSize(4096, 4096), ImageSize(768, 768)),
        (ImageSize(1152, 2048), ImageSize(576, 1024)),
        (ImageSize(512, 512), ImageSize(512, 512)),
    ],
)
def test_the_base_of_a_common_size(size: ImageSize, base: ImageSize) -> None:
    assert shrink_to_area(size, max_pixels=768 * 768) == base


def test_an_area_may_hold_no_picture_of_that_shape() -> None:
    assert shrink_to_area(ImageSize(16, 64), max_pixels=256) is None
