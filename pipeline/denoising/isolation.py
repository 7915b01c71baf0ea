"""A forward of several items in which only the items at fault fail."""

import logging
import math
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from pipeline.denoising.transformer import PackedItem
from pipeline.device import begin_copy_to_host
from pipeline.device_errors import is_device_lost, lacks_memory
from pipeline.errors import NumericalError, OutOfMemoryError, PipelineError

_logger = logging.getLogger(__name__)

_STEPS_TO_GROW: Final = 1024
"""Launches without a lack of memory after which twice as much is tried: what was missing may have
been something else's. Each time it is missing still, the next try comes after twice as many."""


class PredictsVelocity(Protocol):
    """The part of `PackedTransformer` that may fail."""

    def predict_velocity(self, items: Sequence[PackedItem]) -> list[Tensor]:
        """Predict each item's velocity."""
        ...

    def release_memory(self) -> None:
        """Let go of what can be made again."""
        ...


class LaunchedForward:
    """A forward that may still run on the device."""

    def __init__(self, velocities: Sequence[Tensor | PipelineError]) -> None:
        self.velocities = list(velocities)
        """One for each item; those that are not finite are not known yet."""
        predicted = [each for each in velocities if isinstance(each, Tensor)]
        self._flags: Tensor | None = None
        self._device = torch.device("cpu")
        self._end: Any = None
        if predicted:
            self._device = predicted[0].device
            flags = torch.stack([velocity.isfinite().all() for velocity in predicted])
            self._flags = begin_copy_to_host(flags)
        self.end()

    def end(self) -> None:
        """Let `wait` wait for all that was asked of the device until now."""
        if self._device.type == "cuda":
            self._end = torch.cuda.current_stream(self._device).record_event()

    def wait(self) -> list[Tensor | PipelineError]:
        """Wait for the device; a velocity that is not finite becomes its item's error."""
        if self._end is not None:
            self._end.synchronize()
        flags = iter([] if self._flags is None else self._flags.tolist())
        return [
            each
            if isinstance(each, PipelineError) or next(flags)
            else NumericalError("the velocity must be finite, and is not")
            for each in self.velocities
        ]


class IsolatedForward:
    """Runs forwards, finds the item at fault, and learns how much fits in memory."""

    def __init__(
        self,
        transformer: PredictsVelocity,
        release_memory: Callable[[], None] | None = None,
    ) -> None:
        """Run forwards of a transformer; `release_memory` is by default the transformer's own."""
        self._transformer = transformer
        self._release_memory = release_memory or transformer.release_memory
        self.max_units = math.inf
        """Cost units of one step that have fitted where twice as many did not."""
        self._steps_to_grow = _STEPS_TO_GROW
        self._steps_since_lack = 0
        self._has_grown = False

    def launch(self, items: Sequence[PackedItem], units: Sequence[float]) -> LaunchedForward:
        """Begin to predict each item's velocity.

        Args:
            items: What shares the forward.
            units: The cost of each, in cost units.

        Raises:
            torch.AcceleratorError: If the device itself failed; nothing can run on it any more.
        """
        self._grow()
        return self._launch(items, units)

    def _grow(self) -> None:
        if self.max_units == math.inf:
            return
        self._steps_since_lack += 1
        if self._steps_since_lack >= self._steps_to_grow:
            self.max_units, self._steps_since_lack, self._has_grown = 2 * self.max_units, 0, True

    def _shrink(self, max_units: float) -> None:
        if self._has_grown:
            self._steps_to_grow, self._has_grown = 2 * self._steps_to_grow, False
        self.max_units, self._steps_since_lack = min(self.max_units, max_units), 0

    def _launch(self, items: Sequence[PackedItem], units: Sequence[float]) -> LaunchedForward:
        try:
            return LaunchedForward(self._transformer.predict_velocity(items))
        except Exception as exc:
            if is_device_lost(exc):
                raise
            if lacks_memory(exc):
                let_go_of_tensors(exc)
                if len(items) == 1:
                    return LaunchedForward([self._predict_after_release(items[0], exc)])
                return LaunchedForward(self._predict_halves(items, units))
            if len(items) == 1:
                return LaunchedForward([describe_failure(exc)])
            let_go_of_tensors(exc)
            _logger.warning("a forward of %d items failed, each runs alone: %s", len(items), exc)
            alone = zip(items, units, strict=True)
            return LaunchedForward([self._predict([item], [cost])[0] for item, cost in alone])

    def _predict_halves(
        self, items: Sequence[PackedItem], units: Sequence[float]
    ) -> list[Tensor | PipelineError]:
        _logger.warning("out of memory with %d items: they run in halves", len(items))
        self._release_memory()
        middle = len(items) // 2
        halves = (items[:middle], units[:middle]), (items[middle:], units[middle:])
        outcomes = [self._predict(*half) for half in halves]
        together = outcomes[0] + outcomes[1]
        # An item that does not fit alone says nothing of how much the others may be together.
        if not any(isinstance(outcome, OutOfMemoryError) for outcome in together):
            self._shrink(max(sum(costs) for _, costs in halves))
            _logger.warning("steps stay within %.2f cost units for a while", self.max_units)
        return together

    def _predict(
        self, items: Sequence[PackedItem], units: Sequence[float]
    ) -> list[Tensor | PipelineError]:
        return self._launch(items, units).wait()

    def _predict_after_release(self, item: PackedItem, cause: Exception) -> Tensor | PipelineError:
        # What other shapes left in caches may be what is missing.
        self._release_memory()
        try:
            return LaunchedForward(self._transformer.predict_velocity([item])).wait()[0]
        except Exception as exc:
            if is_device_lost(exc):
                raise
            if not lacks_memory(exc):
                # Libraries say in ways of their own that a card is full.
                return describe_failure(exc)
            let_go_of_tensors(exc)
            error = OutOfMemoryError(
                f"latents must fit on the device, got {list(item.latents.shape)}"
            )
            error.__cause__ = cause
            return error


def describe_failure(exc: Exception) -> PipelineError:
    """Turn whatever a request provoked into what its listener is told."""
    let_go_of_tensors(exc)
    if isinstance(exc, PipelineError):
        return exc
    error: PipelineError
    if lacks_memory(exc):
        error = OutOfMemoryError("the picture must fit on the device beside the others")
    else:
        error = PipelineError(f"the denoiser failed: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error


def let_go_of_tensors(exc: BaseException) -> None:
    """Clear the frames that an exception came through: they hold all that a forward had computed.

    Its text and line numbers stay.
    """
    seen: BaseException | None = exc
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
