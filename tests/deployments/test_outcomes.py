"""Every error has one word in telemetry, and one way to have ended."""

import asyncio

import pytest

from cluster.errors import StoreUnavailableError
from cluster.telemetry import Outcome
from deployments.errors import DeadlineExceededError, InvalidFieldError, OverloadedError
from deployments.outcomes import classify
from pipeline.errors import (
    CancelledError,
    DeadlineError,
    InvalidRequestError,
    OutOfMemoryError,
    ReplicaFullError,
)


@pytest.mark.parametrize(
    ("exc", "outcome", "error"),
    [
        (InvalidFieldError("size must be", "size"), Outcome.REFUSED, "invalid_value"),
        (InvalidRequestError("seed must be"), Outcome.REFUSED, "invalid_value"),
        (OverloadedError("full"), Outcome.REFUSED, "overloaded"),
        (ReplicaFullError("full"), Outcome.REFUSED, "overloaded"),
        (DeadlineExceededError("late"), Outcome.FAILED, "deadline_exceeded"),
        (DeadlineError("late"), Outcome.FAILED, "deadline_exceeded"),
        (OutOfMemoryError("did not fit"), Outcome.FAILED, "out_of_memory"),
        (StoreUnavailableError("away"), Outcome.FAILED, "store_unavailable"),
        (ZeroDivisionError(), Outcome.FAILED, "zero_division"),
        (asyncio.CancelledError(), Outcome.CANCELLED, "cancelled"),
        (GeneratorExit(), Outcome.CANCELLED, "cancelled"),
        (CancelledError("gave up"), Outcome.CANCELLED, "cancelled"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_has_an_outcome_and_a_word(
    exc: BaseException, outcome: Outcome, error: str
) -> None:
    assert classify(exc) == (outcome, error)
