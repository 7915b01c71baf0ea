"""Where the configuration comes from: a YAML file, then `ZIMAGE_` environment variables.

`ZIMAGE_STORE__PATH=/data` sets `store.path`; a value is read as YAML, so `4`, `true` and
`[{name: a}]` mean what they mean in the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from deployments.config import AppConfig
from deployments.config_mistakes import explain_mistake
from deployments.config_yaml import DuplicateKeyError, YamlMistakeError, read_yaml

ENV_PREFIX: Final = "ZIMAGE_"
_NESTING: Final = "__"


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
        lines = [explain_mistake(error, AppConfig) for error in exc.errors()]
        # Not chained: what failed has the values.
        raise ConfigurationError("\n".join(lines)) from None


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
        content = read_yaml(file.read_text("utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"configuration file must be readable, got {file}: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"configuration file must be UTF-8, got {file}: {exc}") from exc
    except YamlMistakeError as exc:
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
        return read_yaml(text)
    except DuplicateKeyError as exc:
        raise ConfigurationError(f"{name}: {exc}") from exc
    except YamlMistakeError as exc:
        raise ConfigurationError(
            f"{name} must be YAML, where text that begins with a sign such as [ or * needs quotes"
        ) from exc


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    nested: dict[str, Any] = value
    return nested
