"""What Redis must be, and what happens when it is gone."""

from pathlib import Path

import pytest
import redis
from redis_failover import run_pair
from redis_server import DURABLE, RedisServer, run_redis
from service import free_port

from cluster.errors import RecordStoreConfigurationError, RecordStoreUnavailableError
from cluster.records import Record, RedisRecordStore


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("appendonly", "no", "must have appendonly yes, got no"),
        ("appendfsync", "no", "must have appendfsync always or everysec, got no"),
        ("maxmemory-policy", "allkeys-lru", "must have maxmemory-policy noeviction, got allkeys"),
    ],
)
def test_a_redis_that_may_lose_records_is_refused(
    tmp_path: Path, setting: str, value: str, rule: str
) -> None:
    with (
        run_redis(tmp_path, {**DURABLE, setting: value}) as server,
        pytest.raises(RecordStoreConfigurationError, match=rule),
    ):
        RedisRecordStore(server.url).check()


@pytest.mark.parametrize(("sync", "num_warnings"), [("always", 0), ("everysec", 1)])
def test_a_redis_that_may_lose_its_last_second_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sync: str, num_warnings: int
) -> None:
    with run_redis(tmp_path, {**DURABLE, "appendfsync": sync}) as server:
        RedisRecordStore(server.url).check()

    assert len(caplog.records) == num_warnings
    assert caplog.text.count("got everysec") == num_warnings


def test_a_wrong_password_is_refused_and_not_shown(tmp_path: Path) -> None:
    with run_redis(tmp_path) as server:
        store = RedisRecordStore(f"redis://:wrong-one@127.0.0.1:{server.port}/0")
        with pytest.raises(RecordStoreConfigurationError, match="refused the password") as caught:
            store.check()
    assert "wrong-one" not in str(caught.value)


def test_a_url_of_something_else_is_refused() -> None:
    with pytest.raises(RecordStoreConfigurationError, match="redis:// or rediss://"):
        RedisRecordStore("http://127.0.0.1:80")


def test_records_survive_a_killed_redis(tmp_path: Path) -> None:
    with run_redis(tmp_path) as server:
        store = RedisRecordStore(server.url)
        store.insert(Record("a", "kept", indexes={"x": 1.0}))
        server.kill()
        with pytest.raises(RecordStoreUnavailableError):
            store.read("a")
        server.start()

        assert store.read("a") == Record("a", "kept", version=1)
        assert store.first("x", until=1.0, limit=1) == ["a"]


def open_as(server: RedisServer, rules: str) -> RedisRecordStore:
    """Open the store as a user to whom Redis' rules for access apply."""
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "service", "on", ">pw", "~*", *rules.split())
    return RedisRecordStore(f"redis://service:pw@127.0.0.1:{server.port}/0")


def test_what_lies_in_an_index_is_found_without_the_zrange_of_redis_6_2(tmp_path: Path) -> None:
    with run_redis(tmp_path) as server:
        store = open_as(server, "+@all -zrange")
        for id, score in {"late": 3.0, "second": 2.0, "first": 1.0}.items():
            store.insert(Record(id, "", indexes={"x": score}))

        assert store.first("x", until=2.0, limit=8) == ["first", "second"]
        assert store.first("x", until=float("inf"), limit=2) == ["first", "second"]


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    with run_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        RedisRecordStore(server.url).check()

        assert client.keys("*") == []


def test_a_read_only_replica_is_refused(tmp_path: Path) -> None:
    with run_pair(tmp_path, DURABLE) as pair:
        pair.fail_over()
        with pytest.raises(RecordStoreConfigurationError, match=r"name the primary, got a read-on"):
            RedisRecordStore(pair.old.url).check()


RULES = "resetkeys ~{zimage}:* +@read +@write +@connection +eval +info +time"


def test_a_user_with_the_rules_that_the_message_names_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with run_redis(tmp_path, {**DURABLE, "appendfsync": "always"}) as server:
        open_as(server, RULES).check()

    assert "got not told" in caplog.text


@pytest.mark.parametrize(
    "denied", ["-info", "-eval", "-@write", "-zadd", "-time", "-hmget", "resetkeys"]
)
def test_a_user_who_may_not_do_what_jobs_need_is_refused(tmp_path: Path, denied: str) -> None:
    with run_redis(tmp_path) as server:
        store = open_as(server, f"{RULES} {denied}")
        with pytest.raises(
            RecordStoreConfigurationError, match=r"allow its user .*\+@write"
        ) as caught:
            store.check()
    assert "service" not in str(caught.value)


def test_a_node_of_a_cluster_that_has_not_the_keys_is_refused(tmp_path: Path) -> None:
    port = str(free_port())
    with run_redis(tmp_path, {**DURABLE, "cluster-enabled": "yes", "cluster-port": port}) as server:
        store = RedisRecordStore(server.url)
        with pytest.raises(RecordStoreConfigurationError, match="a Redis without cluster mode"):
            store.check()


def test_a_redis_that_is_full_is_told_in_its_own_words(tmp_path: Path) -> None:
    with (
        run_redis(tmp_path, {**DURABLE, "maxmemory": "1"}) as server,
        pytest.raises(RecordStoreConfigurationError, match=r"take records, got the error .*memory"),
    ):
        RedisRecordStore(server.url).check()


def test_a_redis_that_is_away_is_no_matter_of_its_settings(tmp_path: Path) -> None:
    with run_redis(tmp_path) as server:
        server.kill()
        with pytest.raises(RecordStoreUnavailableError):
            RedisRecordStore(server.url).check()
