"""A manifest against a structural schema, strictly, as the API server validates it.

Unknown fields are violations. Numbers that may be words, and lists whose items have a key, are
known; rules in CEL are not part of the schema.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
_HEADER: Final = {"apiVersion", "kind", "metadata"}


def find_violations(manifest: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Return one line a violation; `metadata` is Kubernetes' own and not looked into."""
    body = {key: value for key, value in manifest.items() if key not in _HEADER}
    missing = [f"{key}: required" for key in sorted(_HEADER - manifest.keys())]
    return missing + list(_check(body, schema, ""))


def _check(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | str):
            yield f"{path}: must be an integer or a string, got {value!r}"
        elif isinstance(value, str):
            yield from _check_scalar(value, schema, path)
        return
    kinds = _TYPES[schema["type"]]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        yield f"{path}: must be {schema['type']}, got {value!r}"
    elif isinstance(value, dict):
        yield from _check_object(value, schema, path)
    elif isinstance(value, list):
        yield from _check_list(value, schema, path)
    else:
        yield from _check_scalar(value, schema, path)


def _check_object(value: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{path}.{name}: required"
    for name, child in value.items():
        place = f"{path}.{name}"
        if name in properties:
            yield from _check(child, properties[name], place)
        elif isinstance(schema.get("additionalProperties"), dict):
            yield from _check(child, schema["additionalProperties"], place)
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{place}: unknown field"


def _check_list(value: list[Any], schema: dict[str, Any], path: str) -> Iterator[str]:
    for index, item in enumerate(value):
        yield from _check(item, schema["items"], f"{path}[{index}]")
    keys = schema.get("x-kubernetes-list-map-keys")
    if keys and all(isinstance(item, dict) for item in value):
        fields = schema["items"].get("properties", {})
        names = [
            tuple(item.get(key, fields.get(key, {}).get("default")) for key in keys)
            for item in value
        ]
        yield from (
            f"{path}: {keys} must differ, got {name} twice"
            for name in sorted({name for name in names if names.count(name) > 1}, key=str)
        )


def _check_scalar(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: must be one of {schema['enum']}, got {value!r}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: must match {schema['pattern']}, got {value!r}"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{path}: must be at least {schema['minimum']}, got {value!r}"
    if "minLength" in schema and len(value) < schema["minLength"]:
        yield f"{path}: must not be shorter than {schema['minLength']}, got {value!r}"
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield f"{path}: must not be longer than {schema['maxLength']}, got {value!r}"
