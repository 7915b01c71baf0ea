"""A forward of several items in which only the items at fault fail."""

import logging
import math
import traceback
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.denoising.transformer import PackedItem
from pipeline.device import begin_copy_to_host
from pipeline.errors import NumericalError, OutOfMemoryError, PipelineError

_logger = logging.getLogger(__name__)


class PredictsVelocity(Protocol):
    """The part of `PackedTransformer` that may fail."""

    def predict_velocity(self, items: Sequence[PackedItem]) -> list[Tensor]:
        """Predict each item's velocity."""
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

    def __init__(self, transformer: PredictsVelocity) -> None:
        self._transformer = transformer
        self.max_units = math.inf
        """Cost units of one step that are known to be too many, halved: the bound from then on."""

    def predict(
        self, items: Sequence[PackedItem], units: Sequence[float]
    ) -> list[Tensor | PipelineError]:
        """Predict each item's velocity, or say why there is none.

        Raises:
            torch.AcceleratorError: If the device itself failed; nothing can run on it any more.
        """
        return self.launch(items, units).wait()

    def launch(self, items: Sequence[PackedItem], units: Sequence[float]) -> LaunchedForward:
        """Begin to predict each item's velocity.

        Args:
            items: What shares the forward.
            units: The cost of each, in cost units.

        Raises:
            torch.AcceleratorError: If the device itself failed; nothing can run on it any more.
        """
        try:
            return LaunchedForward(self._transformer.predict_velocity(items))
        except torch.AcceleratorError:
            raise
        except torch.OutOfMemoryError as exc:
            _let_go_of_tensors(exc)
            if len(items) == 1:
                return LaunchedForward([self._predict_after_release(items[0], exc)])
            return LaunchedForward(self._predict_halves(items, units))
        except Exception as exc:  # noqa: BLE001 - whatever one item provokes must not fail others
            if len(items) == 1:
                return LaunchedForward([describe_failure(exc)])
            _let_go_of_tensors(exc)
            _logger.warning("a forward of %d items failed, each runs alone: %s", len(items), exc)
            alone = zip(items, units, strict=True)
            return LaunchedForward([self.predict([item], [cost])[0] for item, cost in alone])

    def _predict_halves(
        self, items: Sequence[PackedItem], units: Sequence[float]
    ) -> list[Tensor | PipelineError]:
        self.max_units = min(self.max_units, sum(units) / 2)
        _logger.warning(
            "out of memory with %d items: halved, and steps stay within %.2f cost units",
            len(items),
            self.max_units,
        )
        _release_memory()
        middle = len(items) // 2
        first = self.predict(items[:middle], units[:middle])
        return first + self.predict(items[middle:], units[middle:])

    def _predict_after_release(
        self, item: PackedItem, cause: torch.OutOfMemoryError
    ) -> Tensor | PipelineError:
        # What other shapes left in the allocator's cache may be what is missing.
        _release_memory()
        try:
            return LaunchedForward(self._transformer.predict_velocity([item])).wait()[0]
        except torch.AcceleratorError:
            raise
        except torch.OutOfMemoryError as exc:
            _let_go_of_tensors(exc)
            error = OutOfMemoryError(
                f"latents must fit on the device, got {list(item.latents.shape)}"
            )
            error.__cause__ = cause
            return error
        except Exception as exc:  # noqa: BLE001 - libraries say in ways of their own that a card is full
            return describe_failure(exc)


def describe_failure(exc: Exception) -> PipelineError:
    """Turn whatever a request provoked into what its listener is told."""
    _let_go_of_tensors(exc)
    if isinstance(exc, PipelineError):
        return exc
    error = PipelineError(f"the denoiser failed: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error


def _let_go_of_tensors(exc: BaseException) -> None:
    """Clear the frames that an exception came through: they hold all that a forward had computed.

    Its text and line numbers stay.
    """
    seen: BaseException | None = exc
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
