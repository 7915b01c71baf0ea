"""What keeps a request of a job from being drawn, and when it is tried again. Pure."""

from dataclasses import dataclass
from typing import Final

from deployments.errors import (
    ApiError,
    DependencyError,
    OverloadedError,
    PoisonedRequestError,
    ReplicaLostError,
)

_MAX_LOSSES: Final = 4
"""Replicas that a request may lose before it is held to be the reason."""
_PASSING: Final = (OverloadedError, ReplicaLostError, PoisonedRequestError, DependencyError)
"""Errors after which a request may still be drawn."""
_MAX_WAIT_S: Final = 30.0
_MAX_DOUBLINGS: Final = 5


@dataclass
class Setbacks:
    """What a request has met with."""

    num_losses: int = 0
    """Replicas that were lost with it."""
    num_outages: int = 0
    """Of a store, in a row."""
    num_refusals: int = 0
    """For want of room, in a row."""
    delay_s: float = 0.0
    """Until the next try."""

    def add(self, error: ApiError, *, num_lost: int) -> None:
        """Count one more, which took so many replicas with it."""
        is_refused = isinstance(error, OverloadedError) and not num_lost
        self.num_losses += num_lost
        self.num_outages = self.num_outages + 1 if isinstance(error, DependencyError) else 0
        self.num_refusals = self.num_refusals + 1 if is_refused else 0


def retry_delay_s(error: ApiError, setbacks: Setbacks) -> float | None:
    """Return the seconds until a failed request is tried again; None for never.

    A service that is full is no fault of the request, which waits for it until its deadline;
    replicas that die with it may be. While a store is away each try may draw the picture for
    nothing: of several outages or refusals in a row each is waited out for twice as long.
    """
    if not isinstance(error, _PASSING):
        return None
    if setbacks.num_losses >= _MAX_LOSSES:
        return None
    num_in_row = max(setbacks.num_outages, setbacks.num_refusals)
    if setbacks.num_losses and not num_in_row:
        return float(setbacks.num_losses)
    return growing_wait_s(num_in_row, first_s=float(error.retry_after_s or 1))


def growing_wait_s(num_in_row: int, *, first_s: float = 1.0) -> float:
    """Return the seconds to wait after so many setbacks of one kind."""
    # An exponent that stays small: a job may meet an outage for days.
    doublings = min(max(0, num_in_row - 1), _MAX_DOUBLINGS)
    return min(_MAX_WAIT_S, first_s * 2.0**doublings)
