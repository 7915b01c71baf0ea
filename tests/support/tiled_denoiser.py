"""Draws tile by tile in one process, as the service's coordinator does over a pool."""

import time
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from torch import Tensor

from pipeline.denoising.tiled import TiledRun, TileItem
from pipeline.errors import DeadlineError
from pipeline.request import DenoiseRequest, DenoiseResult, PromptEncoding, StepEvent
from pipeline.tiled_passes import TilingOptions


class TileExecutor(Protocol):
    """Runs tiles, in process or on a pool of replicas."""

    def prepare_caption(self, caption_key: str, encoding: PromptEncoding) -> None:
        """Run the caption path, once for all tiles and steps of a request."""
        ...

    def predict_velocities(self, items: Sequence[TileItem]) -> list[Tensor]:
        """Predict [16, h, w] float32 velocities on the CPU, in the order of the items."""
        ...

    def release_caption(self, caption_key: str) -> None:
        """Forget a caption state; an unknown key is no error."""
        ...


def denoise_tiled(
    request: DenoiseRequest,
    executor: TileExecutor,
    options: TilingOptions | None = None,
    draw_preview: Callable[[Tensor], Tensor] | None = None,
) -> Generator[StepEvent | DenoiseResult, None, None]:
    """Yield an event a step and, last, the latents. Closing the generator cancels between steps.

    Raises:
        DeadlineError: If the request's time is over before the last step.
        NumericalError: If a velocity is not finite.
    """
    arrived_at = time.monotonic()
    run = TiledRun(request, options, draw_preview)
    executor.prepare_caption(request.id, request.encoding)
    started_at = time.monotonic()
    try:
        while not run.is_done:
            _require_time(request, time.monotonic() - arrived_at)
            yield run.take(executor.predict_velocities(run.next_items()))
    finally:
        executor.release_caption(request.id)
    yield DenoiseResult(
        latents=run.latents[None],
        queue_s=started_at - arrived_at,
        run_s=time.monotonic() - started_at,
    )


def _require_time(request: DenoiseRequest, elapsed_s: float) -> None:
    if request.timeout_s is not None and elapsed_s >= request.timeout_s:
        raise DeadlineError(f"a picture must be done within {request.timeout_s:g} s")


class TiledDenoiser:
    """A `Denoiser` that draws tile by tile."""

    def __init__(
        self,
        executor: TileExecutor,
        options: TilingOptions | None = None,
        draw_preview: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._executor = executor
        self._options = options
        self._draw_preview = draw_preview

    def denoise(
        self, request: DenoiseRequest, on_step: Callable[[StepEvent], None] | None = None
    ) -> DenoiseResult:
        """Draw one image's latents, telling `on_step` after each step."""
        steps = denoise_tiled(request, self._executor, self._options, self._draw_preview)
        for outcome in steps:
            if isinstance(outcome, DenoiseResult):
                return outcome
            if on_step is not None:
                on_step(outcome)
        raise AssertionError("denoise_tiled ends with a result")
