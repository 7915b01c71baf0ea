"""A cache in a real Redis, which may be away, unbounded or full."""

import secrets
from pathlib import Path

import pytest
import redis
from redis_failover import run_pair
from redis_server import RedisServer, run_redis

from deployments.config_file import ConfigurationError, validate_config
from deployments.shared_cache import SharedCache

BOUNDED = {"maxmemory": "8mb", "maxmemory-policy": "allkeys-lru"}


class HandClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def open_cache(server: RedisServer, clock: HandClock | None = None) -> SharedCache:
    return SharedCache(
        server.url,
        lifetime_s=60,
        namespace=f"test-{secrets.token_hex(4)}",
        clock=clock or HandClock(),
    )


def test_what_was_put_is_found_in_order(cache_server: RedisServer) -> None:
    cache = open_cache(cache_server)
    cache.put("a", b"1")
    cache.put("b", b"2")

    assert cache.get(["b", "c", "a"]) == [b"2", None, b"1"]
    cache.close()


def test_an_entry_does_not_outlive_its_lifetime(cache_server: RedisServer) -> None:
    namespace = f"test-{secrets.token_hex(4)}"
    cache = SharedCache(cache_server.url, lifetime_s=60, namespace=namespace)
    cache.put("a", b"1")

    with redis.Redis.from_url(cache_server.url) as client:
        assert 0 < int(client.ttl(f"{namespace}:a")) <= 60
    cache.close()


def test_more_than_fits_is_forgotten_and_not_refused(cache_server: RedisServer) -> None:
    cache = open_cache(cache_server)
    for index in range(64):
        cache.put(str(index), bytes(2**20))

    assert cache.num_failures == 0
    assert cache.get(["63"]) == [bytes(2**20)]
    cache.close()


def test_a_redis_without_bound_is_not_used(redis_server: RedisServer) -> None:
    cache = open_cache(redis_server)
    cache.put("a", b"1")

    assert cache.get(["a"]) == [None]
    assert cache.num_failures == 1
    cache.close()


def test_a_redis_that_is_away_looks_empty_and_is_tried_again_later(tmp_path: Path) -> None:
    clock = HandClock()
    with run_redis(tmp_path, BOUNDED) as server:
        cache = open_cache(server, clock)
        cache.put("a", b"1")
        server.kill()
        while_away = [cache.get(["a"]) for _ in range(3)]
        server.start()
        clock.now_s = 6.0
        cache.put("b", b"2")

        assert while_away == [[None]] * 3
        assert cache.num_failures == 1
        assert cache.get(["b"]) == [b"2"]
        cache.close()


def test_after_a_failover_the_new_primary_is_used(tmp_path: Path) -> None:
    clock = HandClock()
    with run_pair(tmp_path, BOUNDED) as pair:
        cache = SharedCache(pair.url, lifetime_s=60, clock=clock)
        cache.put("a", b"1")
        pair.fail_over()
        cache.put("b", b"2")
        clock.now_s = 6.0
        cache.put("c", b"3")

        assert cache.get(["b", "c"]) == [None, b"3"]
        assert cache.num_failures == 1
        cache.close()


def test_the_new_primary_must_be_bounded_too(tmp_path: Path) -> None:
    clock = HandClock()
    with run_pair(tmp_path, BOUNDED) as pair:
        cache = SharedCache(pair.url, lifetime_s=60, clock=clock)
        cache.put("a", b"1")
        with redis.Redis.from_url(pair.new.url) as client:
            client.config_set("maxmemory", "0")
        pair.fail_over()
        cache.put("b", b"2")
        clock.now_s = 6.0
        cache.put("c", b"3")

        assert cache.num_failures == 2
        cache.close()


def test_a_server_that_tells_no_bound_is_not_used(
    cache_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis.Redis, "info", lambda *_: {"used_memory": 1})
    cache = open_cache(cache_server)
    cache.put("a", b"1")

    assert cache.get(["a"]) == [None]
    assert cache.num_failures == 1
    cache.close()


def test_cache_and_quotas_cannot_share_a_redis() -> None:
    url = "redis://:hidden@127.0.0.1/0"

    with pytest.raises(ConfigurationError, match=r"must be another than keys\.redis_url") as caught:
        validate_config({"cache": {"redis_url": url}, "keys": {"redis_url": url}})

    assert "hidden" not in str(caught.value)


def test_what_is_cached_may_not_push_out_the_jobs() -> None:
    url = "redis://127.0.0.1/0"
    store = {"kind": "redis", "url": url}

    with pytest.raises(ConfigurationError, match=r"must be another than jobs\.store\.url"):
        validate_config({"cache": {"redis_url": url}, "jobs": {"store": store}})
