"""How a call ended, in telemetry's words. Pure."""

import asyncio
import re
from typing import Final

from cluster.telemetry import Outcome
from deployments.errors import ApiError, DeadlineExceededError, InvalidFieldError, OverloadedError
from pipeline.errors import CancelledError, DeadlineError, InvalidRequestError, ReplicaFullError

_REFUSALS: Final = (InvalidRequestError, ReplicaFullError, OverloadedError)
_CANCELLATIONS: Final = (asyncio.CancelledError, GeneratorExit, CancelledError)
_CODES: Final[dict[type[BaseException], str]] = {
    DeadlineError: DeadlineExceededError.code,
    InvalidRequestError: InvalidFieldError.code,
    ReplicaFullError: OverloadedError.code,
}
_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


def classify(exc: BaseException) -> tuple[Outcome, str]:
    """Return how a call ended that raised, and a word for why: few different ones, no values."""
    if isinstance(exc, _CANCELLATIONS):
        return Outcome.CANCELLED, "cancelled"
    if isinstance(exc, _REFUSALS) or (isinstance(exc, ApiError) and exc.status < 500):
        return Outcome.REFUSED, name_error(exc)
    return Outcome.FAILED, name_error(exc)


def name_error(exc: BaseException) -> str:
    """Return the code of the answer, or where that hides the cause the class in snake case."""
    if isinstance(exc, ApiError):
        return exc.code
    if type(exc) in _CODES:
        return _CODES[type(exc)]
    return _WORD.sub("_", type(exc).__name__.removesuffix("Error")).lower()
