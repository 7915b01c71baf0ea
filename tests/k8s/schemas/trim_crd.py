"""Derive the schema that the tests validate with from KubeRay's custom resource definition.

    python tests/k8s/schemas/trim_crd.py ray.io_rayservices.yaml > ray.io_rayservices.json

Keeps what decides whether a manifest is valid, and drops prose and what the tests never use.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

_PROSE: Final = {"description", "format", "x-kubernetes-validations"}


def trim_crd(text: str) -> dict[str, Any]:
    """Return the schema of version v1, without prose and without `status`."""
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema: dict[str, Any] = _trim_schema(version["schema"]["openAPIV3Schema"])
    del schema["properties"]["status"]
    return schema


def _trim_schema(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    trimmed = {key: value for key, value in schema.items() if key not in _PROSE}
    if "properties" in trimmed:
        trimmed["properties"] = {
            name: _trim_schema(value) for name, value in trimmed["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if key in trimmed:
            trimmed[key] = _trim_schema(trimmed[key])
    return trimmed


if __name__ == "__main__":
    content = Path(sys.argv[1]).read_text("utf-8")
    sys.stdout.write(json.dumps(trim_crd(content), separators=(",", ":"), sort_keys=True) + "\n")
