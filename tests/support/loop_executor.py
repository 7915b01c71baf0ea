"""Runs tiles through a step loop, as a replica of a pool does for its coordinator."""

from collections.abc import Sequence
from queue import SimpleQueue

from torch import Tensor

from pipeline.denoising.engine import StepLoop
from pipeline.denoising.positions import PositionGrid
from pipeline.denoising.tiled import TileItem
from pipeline.denoising.work import Outcome, VelocityRequest, VelocityResult
from pipeline.errors import PipelineError
from pipeline.request import PromptEncoding


class LoopTileExecutor:
    """A `TileExecutor`; the loop itself keeps the caption's state."""

    def __init__(self, loop: StepLoop) -> None:
        self._loop = loop
        self._encodings: dict[str, PromptEncoding] = {}
        self._num_calls = 0

    def prepare_caption(self, caption_key: str, encoding: PromptEncoding) -> None:
        self._encodings[caption_key] = encoding

    def predict_velocities(self, items: Sequence[TileItem]) -> list[Tensor]:
        outcomes = [self._submit(item) for item in items]
        return [_expect(queue.get()) for queue in outcomes]

    def release_caption(self, caption_key: str) -> None:
        self._encodings.pop(caption_key, None)

    def _submit(self, item: TileItem) -> "SimpleQueue[Outcome]":
        self._num_calls += 1
        outcomes: SimpleQueue[Outcome] = SimpleQueue()
        request = VelocityRequest(
            id=f"tile-{self._num_calls}",
            encoding=self._encodings[item.caption_key],
            latents=item.latents[None],
            model_time=item.model_time,
            positions=PositionGrid(*item.position_origin),
        )
        self._loop.submit_velocity(request, outcomes.put)
        return outcomes


def _expect(outcome: Outcome) -> Tensor:
    if isinstance(outcome, PipelineError):
        raise outcome
    if not isinstance(outcome, VelocityResult):
        raise TypeError(f"a forward must end in a velocity, got {outcome!r}")
    return outcome.velocity[0]
