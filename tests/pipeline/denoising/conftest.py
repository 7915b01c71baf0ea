"""The parts that the tests of the denoiser share."""

from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import ZImageTransformer2DModel

from pipeline.denoising.engine import StepLoop
from pipeline.denoising.transformer import PackedTransformer
from tests.pipeline.denoising.tiny import build_tiny_transformer, pack


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> ZImageTransformer2DModel:
    return build_tiny_transformer()


@pytest.fixture(scope="module")
def transformer(model: ZImageTransformer2DModel) -> PackedTransformer:
    return pack(model)


BuildLoop = Callable[..., StepLoop]


@pytest.fixture(params=[0, 1], ids=["in_step", "runs_ahead"])
def steps_ahead(request: pytest.FixtureRequest) -> int:
    """How many steps are launched before the one that listeners hear of."""
    return int(request.param)


@pytest.fixture
def build_loop(transformer: PackedTransformer, steps_ahead: int) -> Iterator[BuildLoop]:
    """Builds loops of one thread, and closes them."""
    loops: list[StepLoop] = []

    def build(packed: PackedTransformer = transformer, **options: object) -> StepLoop:
        options = {"runs_ahead": steps_ahead > 0, **options}
        loops.append(StepLoop(packed, num_threads=1, **options))  # type: ignore[arg-type]
        return loops[-1]

    yield build
    for loop in loops:
        loop.close(timeout_s=0)
