"""The service is called with whatever its own OpenAPI document allows, and with what it does not.

Every answer must be one that the document names, in status, content type and schema; none a 5xx
but 504, which a caller that allows no time has asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from caller_api import write_keys
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from local_service import build_local_api, local_config, serve_locally
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from deployments.config import LimitsConfig
from deployments.keys_config import KeysConfig

OPERATIONS = [
    ("/healthz", "GET"),
    ("/readyz", "GET"),
    ("/v1/files/{key}", "GET"),
    ("/v1/images/generations", "POST"),
    ("/v1/images/jobs", "POST"),
    ("/v1/images/jobs", "GET"),
    ("/v1/images/jobs/{id}", "GET"),
    ("/v1/images/jobs/{id}", "DELETE"),
    ("/v1/images/jobs/{id}/events", "GET"),
    ("/v1/images/batches", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{id}", "GET"),
]
TAKE_INPUT = [
    ("/v1/files/{key}", "GET"),
    ("/v1/images/generations", "POST"),
    ("/v1/images/jobs", "POST"),
    ("/v1/images/jobs", "GET"),
    ("/v1/images/batches", "POST"),
]
OPEN_TO_ALL = {"/healthz", "/readyz", "/v1/files/{key}"}
CHECKS = [
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
]
FUZZ = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True)
class Target:
    """A service, and what a caller of it sends with every call."""

    url: str
    headers: dict[str, str]


@pytest.fixture(scope="module", params=["without keys", "with keys"])
def target(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("fuzz")
    config = local_config(tiny_model, folder / "store", limits=LimitsConfig(max_pixels=96 * 96))
    headers = {}
    if request.param == "with keys":
        key = write_keys(folder / "keys.yaml", alice={})["alice"]
        config = config.model_copy(update={"keys": KeysConfig(file=folder / "keys.yaml")})
        headers = {"authorization": f"Bearer {key}"}
    with serve_locally(build_local_api(config)) as url:
        yield Target(url, headers)


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        *[(path, method, GenerationMode.POSITIVE) for path, method in OPERATIONS],
        *[(path, method, GenerationMode.NEGATIVE) for path, method in TAKE_INPUT],
    ],
)
def test_every_answer_is_as_documented(
    target: Target, path: str, method: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_url(f"{target.url}/openapi.json")
    # The target's own key goes with every call.
    schema.config.generation.update(with_security_parameters=False)
    operation = schema[path][method]

    @FUZZ
    @given(operation.as_strategy(generation_mode=mode))
    def call(case: Case[Any]) -> None:
        response = case.call_and_validate(checks=CHECKS, headers=target.headers)
        assert response.status_code < 500 or response.status_code in {503, 504}

    call()


@pytest.mark.parametrize("target", ["with keys"], indirect=True)
@pytest.mark.parametrize(
    ("path", "method"), [each for each in OPERATIONS if each[0] not in OPEN_TO_ALL]
)
def test_without_its_key_every_answer_is_a_401(target: Target, path: str, method: str) -> None:
    operation = schemathesis.openapi.from_url(f"{target.url}/openapi.json")[path][method]

    @FUZZ
    @given(operation.as_strategy())
    def call(case: Case[Any]) -> None:
        assert case.call().status_code == 401

    call()


def test_every_documented_operation_is_fuzzed(local_app: FastAPI) -> None:
    documented = {
        (path, method.upper())
        for path, operations in local_app.openapi()["paths"].items()
        for method in operations
    }

    assert documented == set(OPERATIONS)


@pytest.mark.parametrize("target", ["without keys", "with keys"], indirect=True)
def test_operations_say_whether_they_need_a_key(target: Target) -> None:
    document = httpx.get(f"{target.url}/openapi.json").json()
    security = {
        path: operation.get("security")
        for path, operations in document["paths"].items()
        for operation in operations.values()
    }

    needed: list[dict[str, list[str]]] = [{"key": []}] if target.headers else [{"key": []}, {}]
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert {path for path, each in security.items() if each is None} == OPEN_TO_ALL
    assert all(each == needed for each in security.values() if each is not None)


def test_invalid_input_is_documented_as_the_400_that_it_gets(local_app: FastAPI) -> None:
    document = local_app.openapi()
    statuses = {
        (path, method.upper()): set(operation["responses"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }

    assert {each for each in statuses if "400" in statuses[each]} >= set(TAKE_INPUT)
    assert [each for each in statuses if "422" in statuses[each]] == []
    assert "ValidationError" not in str(document)


@pytest.mark.parametrize(
    ("path", "name", "bounds"),
    [
        ("/v1/files/{key}", "expires", {"minimum": 0}),
        ("/v1/images/jobs", "limit", {"minimum": 1, "maximum": 100}),
    ],
)
def test_a_number_of_a_query_is_documented_with_its_bounds(
    local_app: FastAPI, path: str, name: str, bounds: dict[str, int]
) -> None:
    parameters = local_app.openapi()["paths"][path]["get"]["parameters"]
    (schema,) = [each["schema"] for each in parameters if each["name"] == name]

    assert schema["type"] == "integer"
    assert schema.items() >= bounds.items()


def test_what_is_answered_before_a_route_is_reached_is_documented(local_app: FastAPI) -> None:
    undocumented = [
        (path, method)
        for path, operations in local_app.openapi()["paths"].items()
        if path.startswith(("/v1/images/", "/v1/files/"))
        for method, operation in operations.items()
        if not {"408", "431"} <= set(operation["responses"])
    ]

    assert undocumented == []
