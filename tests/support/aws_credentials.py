"""What boto3 finds of credentials, hidden for a while."""

import contextlib
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def without_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the credentials of the environment, and wherever else boto3 would look."""
    with monkeypatch.context() as hidden:
        hidden.delenv("AWS_ACCESS_KEY_ID")
        hidden.delenv("AWS_SECRET_ACCESS_KEY")
        hidden.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        hidden.setenv("AWS_CONFIG_FILE", "/dev/null")
        hidden.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield
