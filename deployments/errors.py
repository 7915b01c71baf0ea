"""What a caller is told when a call fails, in OpenAI's form.

ApiError
├── InvalidFieldError      400  a field breaks a rule
├── UnauthorizedError      401  no key was given, or none that is known
├── ForbiddenError         403  a link's signature is wrong
├── LinkExpiredError       403  a link was right once
├── NotFoundError          404  no such model, file, picture or job
├── BodyTooSlowError       408  the body did not arrive in time
├── KeyConflictError       409  an idempotency key came with another body
├── JobConflictError       409  the job is finished, and cannot be cancelled
├── PreconditionError      412  the file is not the one that the caller means
├── BodyTooLargeError      413  the body is above the route's limit
├── ContentEncodingError   415  the body is compressed
├── ContentTypeError       415  the body is called something else than JSON
├── EmptyRangeError        416  the range has no byte of the file
├── HeadersTooLargeError   431  the headers are above what the service reads
├── QuotaExceededError     429  the key has used what it may; try again later
├── OverloadedError        503  no pool can take the work now; try again later
├── ReplicaLostError       503  a replica died with the work; try again
├── PoisonedRequestError   500  two replicas were lost with the request
├── DependencyError        503  the store could not be reached
├── DeadlineExceededError  504  the picture was not finished in time
└── InternalError          500  a defect of the service
"""

from typing import Any, ClassVar, Final

RETRY_AFTER_S: Final = 5
"""Seconds after which to try again, where no better estimate exists."""


class ApiError(Exception):
    """A failed call, with everything that the answer says."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    is_final: ClassVar[bool] = False
    """Whether the same call would end alike, so that a client must not send it again by itself."""

    def __init__(
        self, message: str, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message, param, retry_after_s)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def to_body(self) -> dict[str, Any]:
        """Return the answer's body."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def to_headers(self) -> dict[str, str]:
        """Return the headers that belong to the answer.

        OpenAI's clients repeat every 409 and 5xx, unless `x-should-retry` says no.
        """
        headers = {"x-should-retry": "false"} if self.is_final else {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        return headers


class InvalidFieldError(ApiError):
    """A field breaks a rule; the message names the field, the rule and the value."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnauthorizedError(ApiError):
    """No key was given, or none that is known; the two are not told apart."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def to_headers(self) -> dict[str, str]:
        """Name the scheme, as RFC 9110 asks."""
        return {**super().to_headers(), "www-authenticate": "Bearer"}


class NotFoundError(ApiError):
    """No such model, file, picture or job, or none that this caller may see."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class KeyConflictError(ApiError):
    """An idempotency key came with another body than before."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_key_reused"
    is_final = True


class JobConflictError(ApiError):
    """The job is finished, and cannot be cancelled."""

    status = 409
    type = "invalid_request_error"
    code = "job_finished"
    is_final = True


class ForbiddenError(ApiError):
    """The link's signature is wrong."""

    status = 403
    type = "invalid_request_error"
    code = "invalid_signature"


class LinkExpiredError(ApiError):
    """The link was right once; a new one may be had where it came from."""

    status = 403
    type = "invalid_request_error"
    code = "url_expired"


class BodyTooSlowError(ApiError):
    """The body did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "body_too_slow"


class HeadersTooLargeError(ApiError):
    """The headers are above what the service reads."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class BodyTooLargeError(ApiError):
    """The body is above the route's limit."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class ContentEncodingError(ApiError):
    """The body is compressed."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"

    def to_headers(self) -> dict[str, str]:
        """Name what is taken, as RFC 9110 asks."""
        return {**super().to_headers(), "accept-encoding": "identity"}


class ContentTypeError(ApiError):
    """The body is called something else than JSON, or nothing."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_type"

    def to_headers(self) -> dict[str, str]:
        """Name what is taken, as RFC 9110 asks."""
        return {**super().to_headers(), "accept": "application/json"}


class PreconditionError(ApiError):
    """The file is not the one that the caller means."""

    status = 412
    type = "invalid_request_error"
    code = "precondition_failed"


class EmptyRangeError(ApiError):
    """The range has no byte of the file."""

    status = 416
    type = "invalid_request_error"
    code = "range_not_satisfiable"


class QuotaExceededError(ApiError):
    """The key has used what it may for now."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class OverloadedError(ApiError):
    """No pool can take the work now."""

    status = 503
    code = "overloaded"


class ReplicaLostError(ApiError):
    """A replica died with the work; drawing again gives the same picture."""

    status = 503
    code = "replica_lost"


class PoisonedRequestError(ApiError):
    """Two replicas were lost with the request; only a job is tried once more."""

    status = 500
    code = "poisoned_request"
    is_final = True


class DependencyError(ApiError):
    """Something that the service needs could not be reached."""

    status = 503
    code = "dependency_unavailable"


class DeadlineExceededError(ApiError):
    """The picture was not finished in time; what was drawn of it is charged each time."""

    status = 504
    code = "deadline_exceeded"
    is_final = True


class UnmeetableDeadlineError(DeadlineExceededError):
    """The picture cannot be finished in time, so nothing was begun."""


class InternalError(ApiError):
    """A defect of the service; its log has the reason under the request's id."""
