"""Where a service under test keeps what it makes, and who watches it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from otlp_receiver import OtlpReceiver, receive_http


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with receive_http() as receiver:
        yield receiver
