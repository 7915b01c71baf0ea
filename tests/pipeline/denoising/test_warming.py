"""A replica runs what it will be asked for before it is asked."""

from pipeline.acceleration.attention import PerItemAttention
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.transformer import PackedTransformer
from pipeline.denoising.warming import plan_warm_up, warm_up
from pipeline.request import ImageSize, RenderPath
from pipeline.schedule import build_schedule
from pipeline.tiled_passes import TilingOptions
from tests.pipeline.denoising.tiny import build_tiny_transformer

SCHEDULE = build_schedule(8)
TILING = TilingOptions(tile_size=96, base_max_pixels=768 * 768)


def test_whole_pictures_are_warmed_at_their_own_size_and_once() -> None:
    sizes = [ImageSize(512, 512), ImageSize(720, 1280), ImageSize(512, 512)]

    planned = plan_warm_up(sizes, RenderPath.FULL_IMAGE, TILING, SCHEDULE)

    assert planned == (ImageSize(512, 512), ImageSize(720, 1280))


def test_a_tiled_picture_is_warmed_at_its_base_pass_and_its_tile() -> None:
    planned = plan_warm_up([ImageSize(1024, 1024)], RenderPath.TILED, TILING, SCHEDULE)

    assert planned == (ImageSize(768, 768), ImageSize(576, 576))


def test_what_was_warmed_is_known_to_be_warm_and_its_speed_is_measured() -> None:
    model = build_tiny_transformer()
    loop = StepLoop(PackedTransformer(model, PerItemAttention()))

    warm_up(loop, [ImageSize(32, 48)], caption_dim=model.config.cap_feat_dim)

    backlog = loop.backlog()
    loop.close()
    assert backlog.warm_sizes == {ImageSize(32, 48)}
    assert backlog.rate_units_s is not None
    assert not backlog.waiting_units
