"""Each Redis of the configuration is asked, and what is wrong with it told without its password."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import DURABLE, PASSWORD, RedisServer, run_redis
from service import free_port

from cluster.errors import RecordStoreConfigurationError, RecordStoreError
from deployments.cli import main
from deployments.config import AppConfig
from deployments.redis_checks import check_cache, check_jobs, check_quotas

BOUNDED = {"maxmemory": "32mb", "maxmemory-policy": "allkeys-lru"}


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with run_redis(tmp_path_factory.mktemp("durable"), DURABLE) as server:
        yield server


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with run_redis(tmp_path_factory.mktemp("bounded"), BOUNDED) as server:
        yield server


def _jobs(url: str) -> AppConfig:
    return AppConfig.model_validate({"jobs": {"store": {"kind": "redis", "url": url}}})


def _quotas(url: str) -> AppConfig:
    return AppConfig.model_validate({"keys": {"redis_url": url}})


def _cache(url: str) -> AppConfig:
    return AppConfig.model_validate({"cache": {"redis_url": url}})


EACH = pytest.mark.parametrize(
    ("check", "configure", "name"),
    [
        (check_jobs, _jobs, "jobs.store"),
        (check_quotas, _quotas, "keys.redis_url"),
        (check_cache, _cache, "cache.redis_url"),
    ],
    ids=["jobs", "quotas", "cache"],
)
Check = Callable[[AppConfig], str]
Configure = Callable[[str], AppConfig]


def _refuse(check: Check, config: AppConfig) -> str:
    with pytest.raises(RecordStoreError) as caught:
        check(config)
    assert "hidden" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


@EACH
def test_a_redis_that_is_not_there_is_named_with_the_cause(
    check: Check, configure: Configure, name: str
) -> None:
    place = f"redis://127.0.0.1:{free_port()}"

    told = _refuse(check, configure(place.replace("//", "//:hidden@")))

    assert told.startswith(f"{name}: ")
    assert place in told
    assert told.endswith("(connection refused)")


@EACH
@pytest.mark.parametrize("url", ["redis://:hid/hidden@h/0", "127.0.0.1:6379", "redis://h:hidden"])
def test_a_url_that_is_none_is_named(
    check: Check, configure: Configure, name: str, url: str
) -> None:
    assert _refuse(check, configure(url)).startswith(f"{name}: a Redis URL must be")


@EACH
def test_a_variable_that_is_not_set_is_named(
    check: Check, configure: Configure, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_REDIS", raising=False)

    told = _refuse(check, configure("env:SOME_REDIS"))

    assert told == f"{name}: environment variable SOME_REDIS must be set, got none"


@EACH
@pytest.mark.parametrize("login", [":hidden@", ""], ids=["wrong", "none"])
def test_a_password_that_is_not_the_one_is_refused(
    check: Check, configure: Configure, name: str, login: str, bounded: RedisServer
) -> None:
    told = _refuse(check, configure(f"redis://{login}127.0.0.1:{bounded.port}/0"))

    assert told.startswith(f"{name}: ")
    assert told.endswith(f"redis://127.0.0.1:{bounded.port} refused the password")


@EACH
def test_what_answers_and_is_no_redis_is_refused(
    check: Check, configure: Configure, name: str
) -> None:
    with _answer_all(b"HTTP/1.1 400 Bad Request hidden\r\n\r\n") as port:
        told = _refuse(check, configure(f"redis://127.0.0.1:{port}"))

    assert told.startswith(f"{name}: ")
    assert f"redis://127.0.0.1:{port} failed: " in told


def test_a_redis_that_suits_is_named(durable: RedisServer, bounded: RedisServer) -> None:
    assert check_jobs(_jobs(durable.url)) == "jobs.store redis takes jobs"
    assert check_quotas(_quotas(durable.url)) == (
        f"keys.redis_url redis://127.0.0.1:{durable.port} answers"
    )
    assert check_cache(_cache(bounded.url)) == (
        f"cache.redis_url redis://127.0.0.1:{bounded.port} answers"
    )


def test_a_redis_that_does_not_suit_is_refused(durable: RedisServer, bounded: RedisServer) -> None:
    assert "must have appendonly yes" in _refuse(check_jobs, _jobs(bounded.url))
    assert "must have maxmemory and an allkeys policy" in _refuse(check_cache, _cache(durable.url))


def test_a_redis_that_may_evict_counts_is_refused(bounded: RedisServer) -> None:
    message = _refuse(check_quotas, _quotas(bounded.url))

    assert "keys.redis_url must be of a Redis with maxmemory-policy noeviction" in message
    assert "got allkeys-lru at redis://" in message


def test_without_redis_there_is_a_file_and_memory(tmp_path: Path) -> None:
    config = AppConfig.model_validate({"store": {"path": str(tmp_path)}})

    assert check_jobs(config) == "jobs.store sqlite takes jobs"
    assert check_quotas(config) == "quotas are counted in the router"
    assert check_cache(config) == "no cache is shared"


def test_a_bucket_for_pictures_needs_a_store_for_jobs() -> None:
    config = AppConfig.model_validate({"store": {"kind": "s3", "bucket": "pictures"}})

    with pytest.raises(RecordStoreConfigurationError, match=r"^jobs\.store must be set where"):
        check_jobs(config)


def test_check_has_a_line_for_each_redis(
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("ZIMAGE_KEYS__REDIS_URL", f"redis://:hidden@{place}/0")
    monkeypatch.setenv("ZIMAGE_CACHE__REDIS_URL", f"redis://:hidden@{place}/1")
    monkeypatch.setenv("ZIMAGE_JOBS__STORE", f"{{kind: redis, url: 'redis://:hidden@{place}/2'}}")

    assert main(["check", "--model", str(tiny_model), "--store", str(tmp_path)]) == 1

    printed = capsys.readouterr().out
    wrong = [line.split(":")[1] for line in printed.splitlines() if line.startswith("wrong: ")]
    assert wrong == [" jobs.store", " keys.redis_url", " cache.redis_url"]
    assert "hidden" not in printed


@contextlib.contextmanager
def _answer_all(answer: bytes) -> Iterator[int]:
    """Answer whatever comes with the same, until the context ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer_one() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(answer)

    thread: Any = threading.Thread(target=answer_one, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
