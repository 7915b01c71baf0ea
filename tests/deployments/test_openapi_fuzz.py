"""The service is called with whatever its own OpenAPI document allows, and with what it does not.

Every answer must be one that the document names, in status, content type and schema; none a 5xx
but 504, which a caller that allows no time has asked for.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from local_service import serve_locally
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

OPERATIONS = [
    ("/healthz", "GET"),
    ("/readyz", "GET"),
    ("/v1/files/{key}", "GET"),
    ("/v1/images/generations", "POST"),
    ("/v1/models", "GET"),
]
TAKE_INPUT = [("/v1/files/{key}", "GET"), ("/v1/images/generations", "POST")]
CHECKS = [
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
]
FUZZ = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def url(local_app: FastAPI) -> Iterator[str]:
    with serve_locally(local_app) as url:
        yield url


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        *[(path, method, GenerationMode.POSITIVE) for path, method in OPERATIONS],
        *[(path, method, GenerationMode.NEGATIVE) for path, method in TAKE_INPUT],
    ],
)
def test_every_answer_is_as_documented(
    url: str, path: str, method: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path][method]

    @FUZZ
    @given(operation.as_strategy(generation_mode=mode))
    def call(case: Case[Any]) -> None:
        response = case.call_and_validate(checks=CHECKS)
        assert response.status_code < 500 or response.status_code in {503, 504}

    call()


def test_every_documented_operation_but_those_of_jobs_is_fuzzed(local_app: FastAPI) -> None:
    documented = {
        (path, method.upper())
        for path, operations in local_app.openapi()["paths"].items()
        for method in operations
    }

    of_jobs = {
        (path, method)
        for path, method in documented
        if path.startswith(("/v1/images/jobs", "/v1/images/batches"))
    }
    assert documented - of_jobs == set(OPERATIONS)
