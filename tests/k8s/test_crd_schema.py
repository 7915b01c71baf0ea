"""The validator itself: what the API server refuses, it refuses."""

from typing import Any

import pytest

from tests.k8s.crd_schema import find_violations

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z]+$"},
                "mode": {"type": "string", "enum": ["token", "disabled"]},
                "count": {"type": "integer", "minimum": 0},
                "size": {"x-kubernetes-int-or-string": True},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "ports": {
                    "type": "array",
                    "x-kubernetes-list-map-keys": ["port", "protocol"],
                    "items": {
                        "type": "object",
                        "properties": {
                            "port": {"type": "integer"},
                            "protocol": {"type": "string", "default": "TCP"},
                        },
                    },
                },
            },
        }
    },
}


def violations(**spec: Any) -> list[str]:
    header = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}}
    return find_violations({**header, "spec": spec}, SCHEMA)


def test_a_valid_manifest_has_no_violation() -> None:
    free = {"anything": [1, {"deep": None}]}
    ports = [{"port": 1}, {"port": 1, "protocol": "UDP"}]

    assert violations(name="a", size="1Gi", labels={"k": "v"}, free=free, ports=ports) == []


@pytest.mark.parametrize(
    ("spec", "violation"),
    [
        ({"name": "a", "nmae": "b"}, ".spec.nmae: unknown field"),
        ({}, ".spec.name: required"),
        ({"name": True}, ".spec.name: must be string, got True"),
        ({"name": "A"}, ".spec.name: must match ^[a-z]+$, got 'A'"),
        ({"name": "a", "mode": "v1"}, ".spec.mode: must be one of ['token', 'disabled'], got 'v1'"),
        ({"name": "a", "count": True}, ".spec.count: must be integer, got True"),
        ({"name": "a", "count": "1"}, ".spec.count: must be integer, got '1'"),
        ({"name": "a", "count": -1}, ".spec.count: must be at least 0, got -1"),
        ({"name": "a", "size": 1.5}, ".spec.size: must be an integer or a string, got 1.5"),
        ({"name": "a", "labels": {"k": 1}}, ".spec.labels.k: must be string, got 1"),
        (
            {"name": "a", "ports": [{"port": 1}, {"port": 1, "protocol": "TCP"}]},
            ".spec.ports: ['port', 'protocol'] must differ, got (1, 'TCP') twice",
        ),
    ],
)
def test_a_broken_rule_is_one_violation(spec: dict[str, Any], violation: str) -> None:
    assert violations(**spec) == [violation]
