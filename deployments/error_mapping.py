"""The one seam where errors of the stages and stores become answers."""

from typing import Final

from cluster.errors import (
    ImageNotFoundError,
    JobFormatError,
    JobNotFoundError,
    RecordStoreError,
    StoreError,
)
from deployments.errors import (
    RETRY_AFTER_S,
    ApiError,
    DeadlineExceededError,
    DependencyError,
    InternalError,
    InvalidFieldError,
    NotFoundError,
    OverloadedError,
    ReplicaLostError,
)
from deployments.log import logger
from pipeline.errors import (
    CancelledError,
    DeadlineError,
    InvalidRequestError,
    OutOfMemoryError,
    PipelineError,
    ReplicaFailedError,
    ReplicaFullError,
)

MAPPED_ERRORS: Final[tuple[type[Exception], ...]] = (
    ApiError,
    JobFormatError,
    JobNotFoundError,
    PipelineError,
    RecordStoreError,
    StoreError,
)
"""Errors that are expected; any other is a defect."""


def to_api_error(exc: Exception, *, request_id: str) -> ApiError:
    """Return what the caller is told; what it hides is in the log under the request's id."""
    match exc:
        case ApiError():
            return exc
        case InvalidRequestError():
            return InvalidFieldError(str(exc), _field_of(exc))
        case DeadlineError():
            return DeadlineExceededError(str(exc), "timeout_s")
        case OutOfMemoryError():
            logger.error("request %s: %s", request_id, exc)
            return OverloadedError("the picture did not fit on a GPU", None, RETRY_AFTER_S)
        case ReplicaFullError():
            return OverloadedError("the service is full", None, RETRY_AFTER_S)
        case ReplicaFailedError() | CancelledError():
            logger.error("request %s: %s", request_id, exc)
            return ReplicaLostError("a replica stopped in the middle", None, RETRY_AFTER_S)
        case ImageNotFoundError():
            logger.warning("request %s: %s", request_id, exc)
            return NotFoundError("a picture is not in the store any more")
        case StoreError():
            logger.error("request %s: %s", request_id, exc)
            return DependencyError("the store could not be reached", None, RETRY_AFTER_S)
        case RecordStoreError():
            logger.error("request %s: %s", request_id, exc)
            return DependencyError("the job store could not be reached", None, RETRY_AFTER_S)
        case JobFormatError():
            message = "the job is another version's; ask again"
            return DependencyError(message, None, RETRY_AFTER_S)
        case JobNotFoundError():
            return NotFoundError("no such job", "id")
        case _:
            logger.error("request %s failed", request_id, exc_info=exc)
            return InternalError(f"the service failed; its log has request {request_id}")


def _field_of(exc: InvalidRequestError) -> str:
    """Messages of the pipeline start with the field's name."""
    return str(exc).split(" ", 1)[0].rstrip(":")
