"""Options that every command takes, laid over the configuration."""

import argparse
import os
from pathlib import Path
from typing import Any, Final

from deployments.config import AppConfig
from deployments.config_file import (
    ENV_PREFIX,
    ConfigurationError,
    load_values,
    merge,
    validate_config,
)
from deployments.config_mistakes import describe_type

_S3_SCHEME: Final = "s3://"
_LAST_PORT: Final = 65_535


def to_config(options: argparse.Namespace, *, defaults: dict[str, Any] | None = None) -> AppConfig:
    """Read the configuration: options win over the environment, then the file, then `defaults`.

    What `defaults` say of the store is of a folder, and is left out where it is another.

    Raises:
        ConfigurationError: If a key is unknown or a value breaks its rule.
    """
    values = load_values(options.config, os.environ)
    if options.model is not None:
        if not options.model:
            raise ConfigurationError("--model must be a folder or an id of the hub, got ''")
        values = merge(values, {"model": {"source": options.model}})
    if options.store is not None:
        configured = _read_store(values, options.config)
        values = {**values, "store": _parse_store(options.store, configured)}
    base = dict(defaults or {})
    if not _has_folder(values.get("store", {})):
        base.pop("store", None)
    return validate_config(merge(base, values))


def parse_count(text: str) -> int:
    """Read how many there shall be.

    Raises:
        ArgumentTypeError: If that is no whole number above 0.
    """
    if not _is_whole(text) or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def parse_port(text: str) -> int:
    """Read a port.

    Raises:
        ArgumentTypeError: If it is none.
    """
    if not _is_whole(text) or not 1 <= int(text) <= _LAST_PORT:
        raise argparse.ArgumentTypeError(f"port must be in [1, {_LAST_PORT}], got {text!r}")
    return int(text)


def add_key_argument(parser: argparse.ArgumentParser) -> None:
    """Let a command call a service that asks for keys."""
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="holds the API key, for a service that asks"
    )


def read_key(file: Path | None) -> str | None:
    """Read a caller's key; never from the command line, which other users of a machine can see.

    Raises:
        ConfigurationError: If the file cannot be read or does not hold one word.
    """
    if file is None:
        return None
    try:
        words = file.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"--key-file must be readable text, got {file}") from exc
    if len(words) != 1:
        raise ConfigurationError(f"--key-file must hold one key, got {len(words)} words in {file}")
    if not words[0].isascii():
        raise ConfigurationError(f"--key-file must hold a key in ASCII, got another in {file}")
    return words[0]


def _is_whole(text: str) -> bool:
    # Python reads no more than 4,300 digits.
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _has_folder(store: Any) -> bool:
    return not isinstance(store, dict) or store.get("kind", "folder") == "folder"


def _read_store(values: dict[str, Any], file: Path | None) -> dict[str, Any]:
    section = values.get("store", {})
    if not isinstance(section, dict):
        variable = f"{ENV_PREFIX}STORE"
        place = variable if variable in os.environ else file
        raise ConfigurationError(
            f"store must be a mapping, got {describe_type(section)} in {place}"
        )
    return section


def _parse_store(text: str, configured: dict[str, Any]) -> dict[str, Any]:
    if text and not text.startswith(_S3_SCHEME):
        kept = configured if configured.get("kind", "folder") == "folder" else {}
        return {**kept, "kind": "folder", "path": text}
    bucket, _, prefix = text.removeprefix(_S3_SCHEME).partition("/")
    if not bucket:
        raise ConfigurationError(f"--store must be a folder or s3://bucket/prefix, got {text!r}")
    kept = configured if configured.get("kind") == "s3" else {}
    named = {"prefix": prefix.strip("/")} if prefix.strip("/") else {}
    return {**kept, "kind": "s3", "bucket": bucket, **named}
