"""Whether what keeps jobs, counts quotas and caches answers, and suits what it is there for.

A message names the setting, and of a Redis URL its scheme and host at most.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from cluster.errors import (
    RecordStoreConfigurationError,
    RecordStoreError,
    RecordStoreUnavailableError,
)
from cluster.redis_url import place_of
from deployments.config import AppConfig
from deployments.jobs.record_stores import build_record_store
from deployments.redis_url import read_redis_url
from deployments.shared_cache import SharedCache, UnboundedCacheError

_TIMEOUT_S: Final = 3.0


def check_jobs(config: AppConfig) -> str:
    """Write a record into the store of jobs, and say that it can be.

    Raises:
        RecordStoreError: If it cannot.
    """
    try:
        with contextlib.closing(build_record_store(config)) as store:
            store.check()
    except RecordStoreError as exc:
        subject = "" if str(exc).startswith("jobs.store") else "jobs.store: "
        raise type(exc)(_add_cause(f"{subject}{exc}", exc)) from exc
    return f"jobs.store {config.jobs.store.kind} takes jobs"


def check_quotas(config: AppConfig) -> str:
    """Ask the Redis that counts quotas, if there is one, and say that it answers and keeps them.

    Raises:
        RecordStoreError: If it does not.
    """
    if config.keys.redis_url is None:
        return "quotas are counted in the router"
    name = "keys.redis_url"
    url = _read(name, config.keys.redis_url)
    client: Any = redis.Redis.from_url(
        url,
        protocol=2,
        socket_connect_timeout=_TIMEOUT_S,
        socket_timeout=_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    with contextlib.closing(client), _errors(name, url):
        client.ping()
        # A user need not have the right.
        with contextlib.suppress(redis.exceptions.NoPermissionError):
            _check_that_counts_stay(name, url, client.info())
    return f"{name} {place_of(url)} answers"


def _check_that_counts_stay(name: str, url: str, info: dict[str, Any]) -> None:
    rules = {
        "maxmemory-policy": ("maxmemory_policy", "noeviction", "a count that is evicted is anew"),
        "role": ("role", "master", "a replica takes no counts"),
        "cluster-enabled": ("cluster_enabled", 0, "the scripts' keys are on several nodes"),
    }
    for setting, (field, expected, reason) in rules.items():
        value = info.get(field, expected)
        if value != expected:
            raise RecordStoreConfigurationError(
                f"{name} must be of a Redis with {setting} {expected}, since {reason}, "
                f"got {value} at {place_of(url)}"
            )


def check_cache(config: AppConfig) -> str:
    """Ask the Redis that caches, if there is one, and say that it answers and is bounded.

    Raises:
        RecordStoreError: If it does not, or is not.
    """
    if config.cache.redis_url is None:
        return "no cache is shared"
    name = "cache.redis_url"
    url = _read(name, config.cache.redis_url)
    cache = SharedCache(url, lifetime_s=config.cache.lifetime_s)
    with contextlib.closing(cache), _errors(name, url):
        cache.check()
    return f"{name} {place_of(url)} answers"


def _read(name: str, url: SecretStr) -> str:
    try:
        return read_redis_url(url)
    except RecordStoreConfigurationError as exc:
        raise RecordStoreConfigurationError(f"{name}: {exc}") from None


@contextlib.contextmanager
def _errors(name: str, url: str) -> Iterator[None]:
    place = place_of(url)
    try:
        yield
    except UnboundedCacheError as exc:
        raise RecordStoreConfigurationError(f"{exc}, at {place}") from exc
    except redis.AuthenticationError as exc:
        raise RecordStoreConfigurationError(f"{name}: {place} refused the password") from exc
    except (redis.RedisError, ValueError) as exc:
        # ValueError: what answered is no Redis. Its words are not repeated.
        raise RecordStoreUnavailableError(
            _add_cause(f"{name}: {place} failed: {type(exc).__name__}", exc)
        ) from exc


def _add_cause(message: str, error: Exception) -> str:
    """Add what the operating system said of the connection, unless the message has it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            words = cause.strerror.lower()
            return message if words in message else f"{message} ({words})"
        cause = cause.__cause__ or cause.__context__
    return message
