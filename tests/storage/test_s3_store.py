"""The S3 store against a real server."""

import pickle
import random
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from aws_credentials import without_credentials
from s3_server import READER, WRITER, S3Server

from cluster.errors import (
    ImageNotFoundError,
    KeyFormatError,
    StoreConfigurationError,
    StoreUnavailableError,
)
from cluster.storage import S3ImageStore, S3StoreOptions, StoredImage

pytestmark = pytest.mark.storage

METADATA = {"seed": "7", "model": "造相 100%", "size": "1024x1024"}


class OpenStore(Protocol):
    """The fixture `open_store`."""

    def __call__(
        self, server: S3Server, identity: object = WRITER, **options: object
    ) -> S3ImageStore: ...


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key of the test's own."""
    return f"images/2026/01/09/{request.node.originalname}/0.png"


def put(store: S3ImageStore, key: str, content: bytes = b"picture") -> None:
    store.put(key, content, content_type="image/png", metadata=METADATA)


def wait_until_refused(url: str, timeout_s: float = 15.0) -> int:
    """Read a URL until the server refuses it, and return the status."""
    deadline = time.monotonic() + timeout_s
    while (status := httpx.get(url).status_code) == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    return status


def test_a_file_is_read_back_with_its_facts(store: S3ImageStore, key: str) -> None:
    content = random.Random(0).randbytes(3 * 2**20)
    put(store, key, content)
    assert store.get(key) == StoredImage(content, "image/png", METADATA)


@pytest.mark.parametrize("checksum", ["when_supported", "when_required"])
def test_the_server_has_what_was_sent(
    s3_server: S3Server, open_store: OpenStore, key: str, checksum: str
) -> None:
    put(open_store(s3_server, checksum=checksum), key)
    head = s3_server.client().head_object(Bucket="images", Key=key)
    assert (head["ContentType"], head["ContentLength"]) == ("image/png", 7)
    assert head["Metadata"]["size"] == "1024x1024"


def test_the_server_keeps_the_checksum_of_what_was_sent(
    store: S3ImageStore, s3_server: S3Server, key: str
) -> None:
    put(store, key)
    head = s3_server.client().head_object(Bucket="images", Key=key, ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == b64encode(sha256(b"picture").digest()).decode()


def test_what_is_not_there_is_not_found(store: S3ImageStore, key: str) -> None:
    assert not store.exists(key)
    with pytest.raises(ImageNotFoundError, match=f"cannot read {key} in bucket images at 127"):
        store.get(key)


def test_a_deleted_file_is_gone_and_may_be_deleted_again(store: S3ImageStore, key: str) -> None:
    put(store, key)
    assert store.exists(key)
    store.delete(key)
    store.delete(key)
    assert not store.exists(key)


def test_a_second_put_replaces_the_first(store: S3ImageStore, key: str) -> None:
    put(store, key, b"first")
    put(store, key, b"second")
    assert store.get(key).content == b"second"


def test_keys_that_build_key_would_not_make_are_refused(store: S3ImageStore) -> None:
    with pytest.raises(KeyFormatError):
        store.sign("a/../b", lifetime_s=60)


def test_a_presigned_url_gives_the_file_to_anybody(store: S3ImageStore, key: str) -> None:
    put(store, key)
    answer = httpx.get(store.sign(key, lifetime_s=60).url)
    assert (answer.status_code, answer.content) == (200, b"picture")
    assert answer.headers["content-type"] == "image/png"


def test_a_presigned_url_expires(store: S3ImageStore, key: str) -> None:
    put(store, key)
    signed = store.sign(key, lifetime_s=1)
    assert wait_until_refused(signed.url) == 403
    assert time.time() >= signed.expires_at


def test_a_presigned_url_is_good_for_its_key_alone(store: S3ImageStore, key: str) -> None:
    other = key.replace("0.png", "1.png")
    put(store, key)
    put(store, other)
    url = store.sign(key, lifetime_s=60).url
    assert httpx.get(url.replace("0.png", "1.png")).status_code == 403


def test_a_presigned_url_cannot_be_given_a_longer_life(store: S3ImageStore, key: str) -> None:
    put(store, key)
    url = store.sign(key, lifetime_s=60).url
    assert httpx.get(url.replace("X-Amz-Expires=60", "X-Amz-Expires=600")).status_code == 403


def test_a_file_has_no_url_without_a_signature(store: S3ImageStore, key: str) -> None:
    put(store, key)
    assert httpx.get(store.sign(key, lifetime_s=60).url.partition("?")[0]).status_code == 403


def test_a_url_never_outlives_the_credentials(
    s3_server: S3Server, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    expiry = datetime.now(UTC) + timedelta(minutes=20)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", expiry.isoformat())
    signed = open_store(s3_server).sign(key, lifetime_s=3600)
    assert signed.expires_at <= expiry.timestamp()
    seconds = int(parse_qs(urlsplit(signed.url).query)["X-Amz-Expires"][0])
    assert 1190 <= seconds <= 1200


def test_a_check_passes_where_files_can_be_written(store: S3ImageStore) -> None:
    store.check()
    assert store.get("images/probe").content_type == "text/plain"


def test_a_wrong_secret_is_told_and_not_shown(s3_server: S3Server, open_store: OpenStore) -> None:
    wrong = replace(WRITER, secret_key="wrongsecret")
    with pytest.raises(StoreConfigurationError, match="the secret key is wrong") as raised:
        open_store(s3_server, wrong).check()
    assert "wrongsecret" not in str(raised.value)


def test_an_unknown_key_is_told_and_not_shown(s3_server: S3Server, open_store: OpenStore) -> None:
    unknown = replace(WRITER, access_key="unknownkey")
    with pytest.raises(StoreConfigurationError, match="credentials are unknown") as raised:
        open_store(s3_server, unknown).check()
    assert "unknownkey" not in str(raised.value)


def test_a_key_that_may_only_read_is_refused_a_write(
    store: S3ImageStore, s3_server: S3Server, open_store: OpenStore, key: str
) -> None:
    put(store, key)
    reader = open_store(s3_server, READER)
    with pytest.raises(StoreConfigurationError, match="credentials do not allow it"):
        put(reader, key, b"overwritten")
    assert reader.get(key).content == b"picture"


def test_a_missing_bucket_is_told(s3_server: S3Server, open_store: OpenStore) -> None:
    with pytest.raises(StoreConfigurationError, match=r"bucket absent at .* does not exist"):
        open_store(s3_server, bucket="absent").check()


def test_no_credentials_at_all_are_told(
    s3_server: S3Server, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_server)
    no_credentials = pytest.raises(StoreConfigurationError, match="boto3 finds no credentials")
    with without_credentials(monkeypatch), no_credentials:
        store.check()


def test_credentials_that_come_late_are_found_by_the_next_call(
    s3_server: S3Server, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    store = open_store(s3_server)
    no_credentials = pytest.raises(StoreConfigurationError, match="boto3 finds no credentials")
    with without_credentials(monkeypatch), no_credentials:
        put(store, key)

    put(store, key)

    assert store.get(key).content == b"picture"


def test_an_endpoint_that_is_no_url_is_told(s3_server: S3Server, open_store: OpenStore) -> None:
    with pytest.raises(
        StoreConfigurationError, match="endpoint_url of bucket images must be an HTTP URL"
    ):
        open_store(s3_server, endpoint_url="127.0.0.1:1").check()


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("AWS_PROFILE", "nobody", "ProfileNotFound"),
        ("AWS_DEFAULT_REGION", "us east", "InvalidRegionError"),
    ],
)
def test_what_boto3_refuses_to_start_with_is_told(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    for name, secret in WRITER.environment.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv(variable, value)
    with pytest.raises(StoreConfigurationError, match=reason):
        S3ImageStore(S3StoreOptions(bucket="pictures")).check()


def test_the_endpoint_may_come_from_the_environment(
    s3_server: S3Server, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    store = open_store(s3_server, endpoint_url=None)
    put(store, key)
    assert store.get(key).content == b"picture"


def test_a_store_that_was_used_can_be_pickled(store: S3ImageStore, key: str) -> None:
    put(store, key)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.get(key).content == b"picture"


def test_two_hundred_parallel_uploads_are_all_there_and_whole(store: S3ImageStore) -> None:
    contents = {
        f"images/2026/01/09/parallel/{number}.png": random.Random(number).randbytes(50_000)
        for number in range(200)
    }
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda key: put(store, key, contents[key]), contents))
        found = dict(zip(contents, pool.map(store.get, contents), strict=True))
    assert {key: image.content for key, image in found.items()} == contents


def test_a_server_that_is_gone_is_unavailable_and_comes_back(
    frail_server: S3Server, open_store: OpenStore, key: str
) -> None:
    store = open_store(frail_server, max_attempts=2)
    put(store, key, b"before")
    frail_server.kill()
    with pytest.raises(StoreUnavailableError, match=r"no answer \(EndpointConnectionError\)"):
        put(store, key, b"during")
    frail_server.start()
    assert store.get(key).content == b"before"
    put(store, key, b"after")
    assert store.get(key).content == b"after"


def test_uploads_during_a_crash_are_whole_or_refused(
    frail_server: S3Server, open_store: OpenStore
) -> None:
    store = open_store(frail_server, max_attempts=2)
    contents = {
        f"images/2026/01/09/crash/{number}.png": random.Random(number).randbytes(200_000)
        for number in range(64)
    }

    late = set(list(contents)[32:])
    killed = threading.Event()

    def try_put(key: str) -> str:
        if key in late:
            killed.wait(60)
        try:
            put(store, key, contents[key])
        except StoreUnavailableError:
            return "refused"
        return "stored"

    with ThreadPoolExecutor(4) as pool:
        outcomes = pool.map(try_put, contents)
        first = next(outcomes)
        frail_server.kill()
        killed.set()
        results = dict(zip(contents, [first, *outcomes], strict=True))
    frail_server.start()
    stored = {key for key, result in results.items() if result == "stored"}
    found = {key for key in contents if store.exists(key)}
    assert stored <= found < set(contents)
    assert {key: store.get(key).content for key in found} == {key: contents[key] for key in found}


def test_an_upload_waits_out_a_restart(
    frail_server: S3Server, open_store: OpenStore, key: str
) -> None:
    # Pauses are drawn: of ten, all may be short, and a slow machine's server not yet there.
    store = open_store(frail_server, max_attempts=30)
    frail_server.kill()
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(put, store, key)
        frail_server.start()
        upload.result(timeout=120)
    assert store.get(key).content == b"picture"


def test_a_server_that_hangs_is_given_up_after_the_timeouts(
    frail_server: S3Server, open_store: OpenStore, key: str
) -> None:
    store = open_store(frail_server, max_attempts=2, read_timeout_s=1.0, connect_timeout_s=1.0)
    store.check()
    frail_server.pause()
    start = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"no answer \(ReadTimeoutError\)"):
        put(store, key)
    # Two tries of a second for `100 Continue`, one to read, and up to one in between.
    assert time.monotonic() - start < 15
    frail_server.resume()
    # Under a name of its own: the server may still carry out what was given up.
    later = key.replace("0.png", "1.png")
    put(store, later, b"after")
    assert store.get(later).content == b"after"
