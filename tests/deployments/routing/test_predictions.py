"""What a pool is expected to do is what its coordinator does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.cost import full_image_units
from deployments.routing.decisions import RequestFacts
from deployments.routing.pools import PoolTraits
from deployments.routing.predictions import estimate_work
from pipeline.denoising.tiled import TiledRun
from pipeline.request import DenoiseRequest, ImageSize, PromptEncoding, RenderPath
from pipeline.tiled_passes import TilingOptions
from pipeline.tiling import plan_tiles

SIDES = st.integers(1, 512).map(lambda patches: 16 * patches)
TILINGS = st.integers(1, 32).flatmap(
    lambda eighths: st.tuples(
        st.just(8 * eighths), st.integers(0, 4 * eighths - 1).map(lambda patches: 2 * patches)
    )
)
TILED = PoolTraits(
    "consumer",
    RenderPath.TILED,
    14.75,
    4096 * 4096,
    60.0,
    8,
    tile_size=768,
    overlap=128,
    start_sigma=TilingOptions().start_sigma,
)


@given(SIDES, SIDES, TILINGS)
def test_as_many_tiles_are_counted_as_are_planned(
    height: int, width: int, tiling: tuple[int, int]
) -> None:
    tile_size, overlap = tiling
    traits = PoolTraits(
        "tiles", RenderPath.TILED, 14.75, 2**26, 60.0, 1, 8 * tile_size, 8 * overlap
    )
    plan = plan_tiles(height // 8, width // 8, tile_size=tile_size, overlap=overlap)

    work = estimate_work(RequestFacts(height, width, 8), traits)

    assert [one.num_tiles for one in work.passes] == [len(plan.tiles)]


@pytest.mark.parametrize(
    "size", [ImageSize(512, 512), ImageSize(1024, 1024), ImageSize(1152, 2048)]
)
def test_units_are_those_of_the_tiles_that_a_coordinator_sends(size: ImageSize) -> None:
    request = DenoiseRequest("one", PromptEncoding(torch.zeros(1, 1)), size, 0, 8)
    run, sent = TiledRun(request, TilingOptions()), []
    while not run.is_done:
        velocities = [item.latents for item in run.next_items()]
        sent += [tuple(latents.shape[1:]) for latents in velocities]
        run.take(velocities)

    work = estimate_work(RequestFacts(size.height, size.width, 8), TILED)

    assert work.num_forwards == len(sent)
    assert work.units == pytest.approx(
        sum(full_image_units(8 * height, 8 * width, 1) for height, width in sent)
    )


def test_what_fits_in_one_tile_costs_what_the_whole_picture_does() -> None:
    work = estimate_work(RequestFacts(768, 512, 8), TILED)

    assert (work.units, work.num_forwards) == (full_image_units(768, 512, 8), 8)


def test_guidance_doubles_the_work_of_tiles_too() -> None:
    facts = RequestFacts(1024, 1024, 8, forwards_per_step=2)

    assert estimate_work(facts, TILED).units == pytest.approx(
        2 * estimate_work(RequestFacts(1024, 1024, 8), TILED).units
    )
