import pytest

from deployments.errors import (
    ApiError,
    DeadlineExceededError,
    DependencyError,
    JobConflictError,
    KeyConflictError,
    OverloadedError,
    PoisonedRequestError,
)


@pytest.mark.parametrize(
    "kind", [DeadlineExceededError, JobConflictError, KeyConflictError, PoisonedRequestError]
)
def test_what_would_end_alike_is_not_to_be_tried_again(kind: type[ApiError]) -> None:
    assert kind("why").to_headers() == {"x-should-retry": "false"}


@pytest.mark.parametrize("kind", [DependencyError, OverloadedError])
def test_what_may_pass_is_to_be_tried_again(kind: type[ApiError]) -> None:
    assert kind("why", None, 7).to_headers() == {"retry-after": "7"}
