"""Where the configuration comes from: a YAML file, then `ZIMAGE_` environment variables.

`ZIMAGE_STORE__PATH=/data` sets `store.path`; a value is read as YAML, so `4`, `true` and
`[{name: a}]` mean what they mean in the file.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ValidationError

from deployments.config import AppConfig

ENV_PREFIX: Final = "ZIMAGE_"
_NESTING: Final = "__"
_YAML_ERRORS: Final = (yaml.YAMLError, ValueError)
"""The second is what a date says that no calendar has."""


class ConfigurationError(Exception):
    """The configuration breaks a rule; the message has one line a mistake."""


def load_config(file: Path | None, environment: Mapping[str, str]) -> AppConfig:
    """Read the configuration; the environment wins over the file.

    Raises:
        ConfigurationError: If a key is unknown or a value breaks its rule.
    """
    return validate_config(load_values(file, environment))


def load_values(file: Path | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """Read plain values, which `validate_config` has yet to check.

    Raises:
        ConfigurationError: If the file cannot be read, or it or a variable is not YAML.
    """
    return merge(_read_file(file), _read_environment(environment))


def validate_config(values: Mapping[str, Any]) -> AppConfig:
    """Check plain values against the schema.

    Raises:
        ConfigurationError: If a key is unknown or a value breaks its rule.
    """
    try:
        return AppConfig.model_validate(values)
    except ValidationError as exc:
        raise ConfigurationError("\n".join(_explain(error) for error in exc.errors())) from exc


def merge(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another."""
    merged = dict(values)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _read_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"configuration file must be readable, got {file}: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"configuration file must be UTF-8, got {file}: {exc}") from exc
    except _YAML_ERRORS as exc:
        raise ConfigurationError(f"configuration file must be YAML, got {file}: {exc}") from exc
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"configuration file must hold a mapping, got {file}")
    return content


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in sorted(environment.items()):
        if name.startswith(ENV_PREFIX):
            keys = name.removeprefix(ENV_PREFIX).lower().split(_NESTING)
            values = merge(values, _nest(keys, _parse_variable(name, text)))
    return values


def _parse_variable(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except _YAML_ERRORS as exc:
        # Without the text, and without the parser's words, which quote it: it may be a password.
        raise ConfigurationError(
            f"{name} must be YAML, where text that begins with a sign such as [ or * needs quotes"
        ) from exc


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    nested: dict[str, Any] = value
    return nested


def _explain(error: Any) -> str:
    sections: list[type[BaseModel]] = [AppConfig]
    known: list[type[BaseModel]] = sections
    place: list[str] = []
    for part in error["loc"]:
        narrowed = [section for section in sections if _kind(section) == part]
        if narrowed and len(sections) > 1:
            sections = narrowed
            continue
        known = sections
        sections = [s for section in sections for s in _subsections(section, part)] or sections
        place.append(str(part))
    if error["type"] != "extra_forbidden":
        return ": ".join(part for part in (".".join(place), error["msg"]) if part) + _value(error)
    names = sorted({name for section in known for name in section.model_fields})
    near = difflib.get_close_matches(place[-1], names, n=1, cutoff=0.0)
    return f"{'.'.join(place)}: no such key, did you mean {'.'.join((*place[:-1], *near))}?"


def _value(error: Any) -> str:
    # A whole section may hold a password.
    is_section = isinstance(error["input"], Mapping | list | tuple)
    return "" if is_section else f", got {error['input']!r}"


def _kind(section: type[BaseModel]) -> str | None:
    """Return the tag by which a discriminated union knows its member."""
    field = section.model_fields.get("kind")
    return None if field is None else str(get_args(field.annotation)[0])


def _subsections(section: type[BaseModel], key: Any) -> list[type[BaseModel]]:
    field = section.model_fields.get(str(key))
    return [] if field is None else _models_in(field.annotation)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
