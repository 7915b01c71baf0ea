"""A Redis URL may stand in the environment, where a Kubernetes secret puts it."""

import pytest
from pydantic import SecretStr

from cluster.errors import RecordStoreConfigurationError
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
