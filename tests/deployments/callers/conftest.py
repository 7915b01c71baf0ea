"""One tiny model for the tests of callers, and one Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from caller_api import LoadedModel, load_model
from redis_server import DURABLE, RedisServer, run_redis

BOUNDED = {"maxmemory": "32mb", "maxmemory-policy": "allkeys-lru"}


@pytest.fixture(scope="session")
def loaded(tiny_model: Path) -> LoadedModel:
    return load_model(tiny_model)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test stops."""
    with run_redis(tmp_path_factory.mktemp("redis"), DURABLE) as server:
        yield server


@pytest.fixture(scope="session")
def cache_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that forgets what was used least recently."""
    with run_redis(tmp_path_factory.mktemp("cache"), BOUNDED) as server:
        yield server
