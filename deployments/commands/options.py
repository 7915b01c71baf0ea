"""Options that every command takes, laid over the configuration."""

import argparse
import os
from typing import Any

from deployments.config import AppConfig
from deployments.config_file import ConfigurationError, load_values, merge, validate_config

_S3_SCHEME = "s3://"


def to_config(options: argparse.Namespace, *, defaults: dict[str, Any] | None = None) -> AppConfig:
    """Read the configuration: options win over the environment, then the file, then `defaults`.

    Raises:
        ConfigurationError: If a key is unknown or a value breaks its rule.
    """
    values = load_values(options.config, os.environ)
    if options.model is not None:
        values = merge(values, {"model": {"source": options.model}})
    if options.store is not None:
        values = {**values, "store": _parse_store(options.store, values.get("store", {}))}
    return validate_config(merge(defaults or {}, values))


def _parse_store(text: str, configured: dict[str, Any]) -> dict[str, Any]:
    if not text.startswith(_S3_SCHEME):
        kept = configured if configured.get("kind", "folder") == "folder" else {}
        return {**kept, "kind": "folder", "path": text}
    bucket, _, prefix = text.removeprefix(_S3_SCHEME).partition("/")
    if not bucket:
        raise ConfigurationError(f"--store must be a folder or s3://bucket/prefix, got {text!r}")
    kept = configured if configured.get("kind") == "s3" else {}
    named = {"prefix": prefix.strip("/")} if prefix.strip("/") else {}
    return {**kept, "kind": "s3", "bucket": bucket, **named}
