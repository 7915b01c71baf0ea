"""A Redis URL may stand in the environment, where a Kubernetes secret puts it."""

import traceback

import pytest
from pydantic import SecretStr

from cluster.errors import RecordStoreConfigurationError
from cluster.redis_url import place_of
from deployments.redis_url import read_redis_url


def test_a_url_is_taken_as_it_is() -> None:
    assert read_redis_url(SecretStr("redis://:pw@host:6379/0")) == "redis://:pw@host:6379/0"


def test_a_reference_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_REDIS", "redis://host")

    assert read_redis_url(SecretStr("env:JOBS_REDIS")) == "redis://host"


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBS_REDIS", raising=False)

    with pytest.raises(RecordStoreConfigurationError, match="JOBS_REDIS must be set"):
        read_redis_url(SecretStr("env:JOBS_REDIS"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cr/et+pw=@redis:6379/0",
        "redis://:s3cr#et@redis:6379/0",
        "redis://:s3cr?et@redis:6379/0",
        "redis://s3cr:12/et@redis:6379/0",
        "rediss://:12#s3cr@redis:6379/0",
        "redis://:[s3cr@redis:6379/0",
        "redis://:s3cr@redis:s3cr/0",
        "redis://:s3cr@redis/0?socket_timeout=s3cr",
        "http://:s3cr@redis",
        "s3cr:s3cr@redis",
    ],
)
def test_no_part_of_a_password_is_shown_where_a_url_is_refused(url: str) -> None:
    with pytest.raises(RecordStoreConfigurationError, match="percent-encoded") as caught:
        read_redis_url(SecretStr(url))

    assert "s3cr" not in "".join(traceback.format_exception(caught.value, limit=0))
    assert "12" not in str(caught.value)


def test_a_percent_encoded_password_is_taken() -> None:
    url = "redis://:s3cr%2Fet%23@redis:6379/0"

    assert read_redis_url(SecretStr(url)) == url


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://user:s3cr%2Fet@redis:6379/0?socket_timeout=1", "redis://redis:6379"),
        ("rediss://:p@ss@redis", "rediss://redis"),
        ("redis://:pw@[::1]:1/0", "redis://[::1]:1"),
        ("redis:///0", "redis://localhost"),
        ("unix://:pw@/run/redis.sock", "unix://"),
    ],
)
def test_of_a_url_only_scheme_host_and_port_are_shown(url: str, place: str) -> None:
    assert place_of(url) == place


def test_an_option_that_its_scheme_does_not_know_is_refused() -> None:
    with pytest.raises(RecordStoreConfigurationError, match="for its scheme, got ssl_ca_certs"):
        place_of("redis://:pw@redis?ssl_ca_certs=/x")
