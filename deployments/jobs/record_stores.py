"""The record store that the configuration names, and whether it suits the cluster."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cluster.errors import RecordStoreConfigurationError
from cluster.records import RecordStore, RedisRecordStore, SqliteRecordStore
from deployments.config import AppConfig, FolderStoreConfig
from deployments.jobs_config import RedisJobStoreConfig
from deployments.redis_url import read_redis_url

FILE_NAME: Final = ".jobs.sqlite3"
"""Hidden, since keys of pictures cannot name hidden files."""

_CHOICE: Final = re.compile(r"(!?)in\((.*)\)")


def build_record_store(config: AppConfig) -> RecordStore:
    """Build the store; nothing is read or written yet.

    Raises:
        RecordStoreConfigurationError: If no place for the file follows from the configuration.
    """
    store = config.jobs.store
    if isinstance(store, RedisJobStoreConfig):
        return RedisRecordStore(read_redis_url(store.url), namespace=store.namespace)
    return SqliteRecordStore(store.path or _default_path(config))


def check_nodes(config: AppConfig, nodes: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a file for jobs where routers may run on several machines.

    Args:
        config: The operator's configuration.
        nodes: What `ray.nodes()` returns.

    Raises:
        RecordStoreConfigurationError: If so.
    """
    if isinstance(config.jobs.store, RedisJobStoreConfig):
        return
    machines = {node["NodeManagerAddress"] for node in nodes if _may_host_router(config, node)}
    if len(machines) > 1:
        raise RecordStoreConfigurationError(
            "jobs.store must be redis where routers may run on several machines, since a file is "
            f"on one of them, got sqlite and {len(machines)} machines"
        )


def _default_path(config: AppConfig) -> Path:
    if isinstance(config.store, FolderStoreConfig):
        return config.store.path / FILE_NAME
    raise RecordStoreConfigurationError(
        "jobs.store must be set where pictures are in S3: redis in a cluster, or sqlite with a "
        "path on one machine"
    )


def _may_host_router(config: AppConfig, node: Mapping[str, Any]) -> bool:
    router = config.router
    labels = node.get("Labels") or {}
    return (
        bool(node["Alive"])
        and node["Resources"].get("CPU", 0.0) >= router.num_cpus
        and all(
            matches_label(labels.get(name), rule) for name, rule in router.label_selector.items()
        )
    )


def matches_label(value: str | None, rule: str) -> bool:
    """Say whether a node's label fulfils one rule of a selector, as Ray reads it."""
    choice = _CHOICE.fullmatch(rule)
    if choice is not None:
        is_in = value in choice[2].split(",")
        return is_in != bool(choice[1])
    if rule.startswith("!"):
        return value != rule[1:]
    return value == rule
