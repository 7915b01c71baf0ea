"""How long a job will take, from how long jobs took."""

from typing import Final, Protocol

from deployments.generation import ImagesOrder

_SMOOTHING: Final = 0.2
_FIRST_GUESS_S: Final = 0.5
"""Seconds a megapixel and step, until something was measured."""
_MIN_MEGAPIXELS: Final = 0.05
"""Below this a step costs no less."""


class Estimate(Protocol):
    """Foretells the seconds of work of an order."""

    def __call__(self, order: ImagesOrder) -> float:
        """Return seconds, without waiting in a queue."""
        ...


class MeasuredEstimate:
    """An average of the seconds a megapixel and step that lately were measured in this router."""

    def __init__(self) -> None:
        self._seconds_per_unit = _FIRST_GUESS_S

    def __call__(self, order: ImagesOrder) -> float:
        """Return seconds, without waiting in a queue."""
        return self._seconds_per_unit * _units(order)

    def observe(self, order: ImagesOrder, seconds: float) -> None:
        """Learn from an order that was drawn."""
        measured = seconds / _units(order)
        self._seconds_per_unit += _SMOOTHING * (measured - self._seconds_per_unit)


def _units(order: ImagesOrder) -> float:
    megapixels = max(_MIN_MEGAPIXELS, order.size.height * order.size.width / 1e6)
    return megapixels * order.num_inference_steps * order.num_images


def wait_s(own_s: float, num_ahead: int, num_slots: int) -> float:
    """Return the seconds until a job is done, if those ahead of it are like it."""
    return own_s * (1 + num_ahead // num_slots)
