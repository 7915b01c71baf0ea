"""Answers that are not S3's, or not whole: nothing is read or stored that is not as it was sent."""

import base64
import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from answering_server import answer_by
from s3_server import WRITER

from cluster.errors import StoreConfigurationError, StoreUnavailableError
from cluster.storage import S3ImageStore, S3StoreOptions

KEY = "images/2026/01/01/img-0/0.png"


class OddServer(BaseHTTPRequestHandler):
    """Answers by what is asked: a subclass says how."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def answer(self) -> None:
        raise NotImplementedError

    def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Corrupting(OddServer):
    """Gives another body than the one whose checksum it names."""

    def answer(self) -> None:
        checksum = base64.b64encode(hashlib.sha256(b"hello").digest()).decode()
        headers = {"content-type": "image/png", "x-amz-checksum-sha256": checksum}
        self.send(200, headers, b"HELL0")


class Cutting(OddServer):
    """Closes the connection after two bytes of a thousand."""

    def answer(self) -> None:
        self.send(200, {"content-type": "image/png", "content-length": "1000"}, b"he")
        self.close_connection = True


class Untyped(OddServer):
    """Does not say what it gives."""

    def answer(self) -> None:
        self.send(200, {}, b"hello")


class Misdating(OddServer):
    """Names no date."""

    def answer(self) -> None:
        headers = {"content-type": "image/png", "last-modified": "yesterday"}
        self.send(200, headers, b"hello")


class Redirecting(OddServer):
    """Is a proxy that wants HTTPS, and knows no HEAD."""

    def do_HEAD(self) -> None:
        self.send_error(501)

    def answer(self) -> None:
        self.send(301, {"location": "https://127.0.0.1/"}, b"")


class AlwaysRedirecting(Redirecting):
    """Redirects whoever asks for a bucket's region, too."""

    def do_HEAD(self) -> None:
        self.answer()


class UnderMaintenance(OddServer):
    """Is a proxy's page."""

    def answer(self) -> None:
        self.send(200, {"content-type": "text/html"}, b"<html>sorry, maintenance</html>")


class Forgetful(OddServer):
    """Has no such file, and says so where S3 does not."""

    def answer(self) -> None:
        self.send(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")


@pytest.fixture
def store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3ImageStore]:
    for name, value in WRITER.environment.items():
        monkeypatch.setenv(name, value)
    with answer_by(request.param) as url:
        yield S3ImageStore(S3StoreOptions("images", endpoint_url=url, max_attempts=1))


@pytest.mark.parametrize("store", [Corrupting, Cutting, Misdating], indirect=True)
def test_a_file_that_is_not_whole_is_not_read(store: S3ImageStore) -> None:
    with pytest.raises(StoreUnavailableError, match="cannot read"):
        store.get(KEY)


@pytest.mark.parametrize("store", [Untyped], indirect=True)
def test_a_file_of_no_type_is_read(store: S3ImageStore) -> None:
    file = store.get(KEY)
    assert (file.content, file.content_type) == (b"hello", "application/octet-stream")


@pytest.mark.parametrize("store", [Redirecting, AlwaysRedirecting], indirect=True)
def test_an_endpoint_that_redirects_is_told_as_that(store: S3ImageStore) -> None:
    with pytest.raises(StoreConfigurationError, match="the endpoint redirects"):
        store.put(KEY, b"hello", content_type="image/png", metadata={})


@pytest.mark.parametrize("store", [UnderMaintenance], indirect=True)
def test_an_upload_that_s3_did_not_answer_is_not_stored(store: S3ImageStore) -> None:
    with pytest.raises(StoreUnavailableError, match="must be S3's, got one without an ETag"):
        store.put(KEY, b"hello", content_type="image/png", metadata={})


@pytest.mark.parametrize("store", [UnderMaintenance], indirect=True)
def test_a_proxys_page_is_no_picture(store: S3ImageStore) -> None:
    for ask in (store.get, store.exists):
        with pytest.raises(StoreUnavailableError, match="must be S3's, got a page without"):
            ask(KEY)


def test_an_endpoint_with_a_password_is_refused_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WRITER.environment.items():
        monkeypatch.setenv(name, value)
    store = S3ImageStore(S3StoreOptions("images", endpoint_url="http://me:s3cr@127.0.0.1:1"))

    with pytest.raises(StoreConfigurationError, match="must have no user or password") as caught:
        store.sign(KEY, lifetime_s=60)

    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("store", [Forgetful], indirect=True)
def test_a_file_that_is_not_there_is_deleted(store: S3ImageStore) -> None:
    store.delete(KEY)
