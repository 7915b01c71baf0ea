"""How long a job will take, from how long jobs took."""

from typing import Final, Protocol

from cluster.rates import guess_rate
from deployments.generation import ImagesOrder

_FIRST_GUESS_UNITS_PER_S: Final = 8.0


class Estimate(Protocol):
    """Foretells the seconds of work of an order."""

    def __call__(self, order: ImagesOrder) -> float:
        """Return seconds, without waiting in a queue."""
        ...


class MeasuredEstimate:
    """The rate of work that lately was measured in this router, by the size of pictures."""

    def __init__(self) -> None:
        self._rate = guess_rate(_FIRST_GUESS_UNITS_PER_S)

    def __call__(self, order: ImagesOrder) -> float:
        """Return seconds, without waiting in a queue."""
        return self._rate.estimate_s(order.cost_units, _count_forwards(order))

    def observe(self, order: ImagesOrder, seconds: float) -> None:
        """Learn from an order that was drawn."""
        self._rate = self._rate.observe(order.cost_units, _count_forwards(order), seconds)


def _count_forwards(order: ImagesOrder) -> int:
    return order.num_images * order.num_inference_steps


def wait_s(own_s: float, num_ahead: int, num_slots: int) -> float:
    """Return the seconds until a job is done, if those ahead of it are like it."""
    return own_s * (1 + num_ahead // num_slots)


def left_s(own_s: float, ran_s: float) -> float:
    """Return the seconds until a job is done that has run for a while."""
    return max(0.0, own_s - ran_s)
