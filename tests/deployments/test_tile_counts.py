"""The cost model counts the tiles that the pipeline draws."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.cost import count_tiles
from pipeline.request import LATENT_SCALE, PATCH_SIZE
from pipeline.tiling import plan_tiles

SIDES = st.integers(1, 512).map(lambda patches: PATCH_SIZE * patches)


@given(height=SIDES, width=SIDES, tile_size=st.integers(1, 24).map(lambda n: 8 * n), data=st.data())
def test_as_many_tiles_are_priced_as_are_planned(
    height: int, width: int, tile_size: int, data: st.DataObject
) -> None:
    overlap = 2 * data.draw(st.integers(0, tile_size // 2 - 1))
    planned = plan_tiles(height, width, tile_size=tile_size, overlap=overlap)
    priced = count_tiles(
        height * LATENT_SCALE,
        width * LATENT_SCALE,
        tile_size=tile_size * LATENT_SCALE,
        overlap=overlap * LATENT_SCALE,
    )

    assert priced == len(planned.tiles)
