"""Rows of packed items: each has its own, and the model's padding lies where the model has it."""

from itertools import chain

import pytest
import torch
from diffusers.models.transformers.transformer_z_image import RopeEmbedder
from hypothesis import given
from hypothesis import strategies as st

from pipeline.denoising.packing import (
    BucketGrid,
    ItemShape,
    PackedLayout,
    SharingLimits,
    group_forwards,
)
from pipeline.denoising.positions import WHOLE_CANVAS, PositionGrid, RotaryEmbedder

shapes = st.builds(
    ItemShape,
    patch_rows=st.integers(1, 20),
    patch_cols=st.integers(1, 20),
    num_caption_rows=st.integers(1, 4).map(lambda count: 32 * count),
)
ROTARY = RotaryEmbedder(theta=256.0, axes_dims=(32, 48, 48))
TABLE = RopeEmbedder(theta=256.0, axes_dims=[32, 48, 48], axes_lens=[1024, 512, 512])


def _rows(part: slice) -> list[int]:
    return list(range(part.start, part.stop))


layouts = st.builds(
    lambda grid, items: grid.lay_out(items),
    st.sampled_from([BucketGrid(), BucketGrid(256, 128)]),
    st.lists(shapes, min_size=1, max_size=6),
)


@given(layouts)
def test_image_rows_are_patches_and_pads_of_each_item_in_turn(layout: PackedLayout) -> None:
    items = layout.shapes
    parts = [(layout.patch_rows(at), layout.image_pad_rows(at)) for at in range(len(items))]

    rows = [row for part in chain.from_iterable(parts) for row in _rows(part)]

    assert rows == list(range(sum(shape.num_image_rows for shape in items)))


@given(layouts)
def test_joint_rows_of_items_follow_one_another(layout: PackedLayout) -> None:
    indices = range(len(layout.shapes))

    rows = [row for index in indices for row in _rows(layout.joint_rows(index))]

    assert rows == list(range(sum(shape.num_joint_rows for shape in layout.shapes)))


@given(layouts)
def test_the_join_takes_every_row_once(layout: PackedLayout) -> None:
    assert sorted(layout.join_index()) == list(range(layout.bucket.joint_rows))


@given(layouts)
def test_an_item_joins_its_image_rows_and_then_its_caption(layout: PackedLayout) -> None:
    last = len(layout.shapes) - 1
    shape, first_caption = layout.shapes[last], layout.bucket.image_rows
    image, caption = layout.image_starts[last], first_caption + layout.caption_starts[last]

    joined = layout.join_index()[layout.joint_rows(last)]

    assert joined[: shape.num_image_rows] == list(range(image, image + shape.num_image_rows))
    assert joined[shape.num_image_rows :] == list(range(caption, caption + shape.num_caption_rows))


@given(layouts)
def test_the_lengths_of_a_bucket_fill_it(layout: PackedLayout) -> None:
    bucket = layout.bucket

    assert len(layout.image_lengths) == len(layout.joint_lengths) == bucket.num_items
    assert sum(layout.image_lengths) == bucket.image_rows
    assert sum(layout.joint_lengths) == bucket.joint_rows
    assert max(layout.joint_lengths) <= bucket.max_length


@given(st.lists(shapes, min_size=1, max_size=6))
def test_a_bucket_wastes_less_than_its_grid(items: list[ItemShape]) -> None:
    bucket = BucketGrid(256, 128).lay_out(items).bucket

    assert 0 <= bucket.image_rows - sum(shape.num_image_rows for shape in items) < 256
    assert 0 <= bucket.caption_rows - sum(shape.num_caption_rows for shape in items) < 128


@given(shapes)
def test_an_item_without_company_has_no_rows_of_nobody(item: ItemShape) -> None:
    layout = BucketGrid(256, 128).lay_out([item])

    assert layout.image_lengths == (item.num_image_rows, 0)
    assert layout.joint_lengths == (item.num_joint_rows, 0)


@given(st.lists(shapes, min_size=1, max_size=6), st.sampled_from([(0, 0), (256, 128)]))
def test_products_are_looked_at_with_as_many_rows_as_layouts_have(
    items: list[ItemShape], multiples: tuple[int, int]
) -> None:
    grid, limits = BucketGrid(*multiples), SharingLimits(solo_rows=1024, max_rows=4096)
    counts = grid.row_counts(limits)

    for group in group_forwards([item.num_joint_rows for item in items], limits):
        members = [items[index] for index in group]
        if members[0].num_joint_rows < limits.solo_rows:
            bucket = grid.lay_out(members).bucket
            assert {bucket.image_rows, bucket.joint_rows} <= set(counts)


@given(shapes)
def test_image_rows_divide_by_32_with_fewer_than_32_pads(shape: ItemShape) -> None:
    assert shape.num_image_rows % 32 == 0
    assert 0 <= shape.num_image_rows - shape.num_patches < 32


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_every_item_has_one_forward(rows: list[int]) -> None:
    groups = group_forwards(rows, SharingLimits(solo_rows=4096, max_rows=8192))

    assert sorted(chain.from_iterable(groups)) == list(range(len(rows)))


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_large_items_go_alone_and_others_stay_within_the_bound(rows: list[int]) -> None:
    groups = group_forwards(rows, SharingLimits(solo_rows=4096, max_rows=8192))
    shared = [[rows[index] for index in group] for group in groups if len(group) > 1]

    assert all(max(group) < 4096 and sum(group) <= 8192 for group in shared)


@pytest.mark.parametrize(
    ("patch_rows", "patch_cols", "num_caption_rows"), [(1, 1, 32), (5, 7, 96), (64, 40, 512)]
)
def test_whole_positions_have_the_numbers_of_the_models_table(
    patch_rows: int, patch_cols: int, num_caption_rows: int
) -> None:
    shape = ItemShape(patch_rows, patch_cols, num_caption_rows)
    grid = torch.cartesian_prod(
        torch.tensor([num_caption_rows + 1]), torch.arange(patch_rows), torch.arange(patch_cols)
    )
    pads = torch.zeros(shape.num_image_rows - shape.num_patches, 3, dtype=torch.int64)

    assert torch.equal(ROTARY.embed_image(shape, WHOLE_CANVAS), TABLE(torch.cat([grid, pads])))


def test_caption_positions_count_from_one() -> None:
    positions = torch.zeros(64, 3, dtype=torch.int64)
    positions[:, 0] = torch.arange(1, 65)

    assert torch.equal(ROTARY.embed_caption(64), TABLE(positions))


def test_a_tile_has_the_positions_of_its_place_in_the_image() -> None:
    whole = ROTARY.embed_image(ItemShape(8, 8, 32), WHOLE_CANVAS).view(8, 8, -1)
    tile = ROTARY.embed_image(ItemShape(4, 8, 32), PositionGrid(row_origin=4)).view(4, 8, -1)

    assert torch.equal(tile, whole[4:])
