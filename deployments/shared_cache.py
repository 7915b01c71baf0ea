"""Bytes in a Redis that may lose them. Whatever is wrong with it, callers see an empty cache."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from deployments.cache_config import CacheConfig
from deployments.log import logger
from deployments.redis_url import read_redis_url

_NAMESPACE: Final = "zimage:cache"
_TIMEOUT_S: Final = 0.25
_PAUSE_S: Final = 5.0


class SharedCache:
    """A bounded Redis; after a failure it is left alone for a while, so that nobody waits for it.

    One that is not bounded, or whose policy would refuse writes or drop by expiry alone, is not
    used: it may be the durable one.
    """

    def __init__(
        self,
        url: str,
        *,
        lifetime_s: int,
        namespace: str = _NAMESPACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis: Any = Redis.from_url(
            url, protocol=2, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        )
        self._lifetime_s = lifetime_s
        self._namespace = namespace
        self._clock = clock
        self._is_checked = False
        self._paused_until_s = clock()
        self.num_failures = 0

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what is held, in the order of the keys."""
        names = [self._name(key) for key in keys]
        found: list[bytes | None] | None = self._try(lambda: self._redis.mget(names))
        return [None] * len(keys) if found is None else found

    def put(self, key: str, value: bytes) -> None:
        """Hold a value for as long as the lifetime, or until there is no room."""
        self._try(lambda: self._redis.set(self._name(key), value, ex=self._lifetime_s))

    def check(self) -> None:
        """Find out now what would keep it from being used.

        Raises:
            RedisError: If it does not answer; ValueError, if what answers is no Redis.
            UnboundedCacheError: If it would grow without bound, or refuse to forget.
        """
        if self._is_checked:
            return
        memory = self._redis.info("memory")
        # What only speaks Redis' protocol may tell of neither.
        maxmemory, policy = memory.get("maxmemory"), memory.get("maxmemory_policy")
        if not maxmemory or not str(policy).startswith("allkeys-"):
            raise UnboundedCacheError(
                "cache.redis_url must have maxmemory and an allkeys policy, "
                f"got {maxmemory} and {policy}: it is not used"
            )
        self._is_checked = True

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _try(self, command: Callable[[], Any]) -> Any:
        if self._clock() < self._paused_until_s:
            return None
        try:
            self.check()
            return command()
        except (RedisError, ValueError) as exc:
            # ValueError: what answered is no Redis. A Redis may live on as the replica of another,
            # and refuse whatever comes by what is open.
            self._redis.connection_pool.disconnect(inuse_connections=False)
            self._is_checked = False
            self._pause(f"the cache's Redis failed: {type(exc).__name__}")
        except UnboundedCacheError as exc:
            self._pause(str(exc))
        return None

    def _pause(self, reason: str) -> None:
        self.num_failures += 1
        self._paused_until_s = self._clock() + _PAUSE_S
        logger.warning("%s", reason)

    def _name(self, key: str) -> str:
        return f"{self._namespace}:{key}"


class UnboundedCacheError(Exception):
    """A Redis that would grow without bound, or refuse to forget."""


def open_shared_cache(config: CacheConfig) -> SharedCache | None:
    """Return the Redis of the configuration; None if there is none."""
    if config.redis_url is None:
        return None
    return SharedCache(read_redis_url(config.redis_url), lifetime_s=config.lifetime_s)
