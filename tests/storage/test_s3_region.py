"""For which region URLs are signed; a server of the test's own answers as AWS would."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import pytest
from answering_server import answer_by
from s3_server import WRITER

from cluster.errors import StoreConfigurationError
from cluster.storage import S3ImageStore, S3StoreOptions


class RegionalBucket(BaseHTTPRequestHandler):
    """Keeps one file, and names its region when it is asked for its bucket."""

    server_name = "AmazonS3"
    status_of_head = 200
    headers_of_head: ClassVar[dict[str, str]] = {"x-amz-bucket-region": "eu-west-1"}
    content = b""

    def do_PUT(self) -> None:
        type(self).content = self.rfile.read(int(self.headers["content-length"]))
        self.answer(200, {"etag": '"1"'}, b"")

    def do_GET(self) -> None:
        self.answer(200, {"content-type": "text/plain"}, self.content)

    def do_HEAD(self) -> None:
        self.answer(self.status_of_head, self.headers_of_head, b"")

    def version_string(self) -> str:
        return self.server_name

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class UnlistedBucket(RegionalBucket):
    """Lets nobody list it."""

    status_of_head = 403


class LenientBucket(RegionalBucket):
    """Is in a store that names a region and takes any."""

    server_name = "Ceph Object Gateway"


class SilentBucket(RegionalBucket):
    """Names no region."""

    headers_of_head: ClassVar[dict[str, str]] = {}


class HeadlessBucket(SilentBucket):
    """Is in a store that does not know the question."""

    status_of_head = 501


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WRITER.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[S3ImageStore]:
    bucket, region = request.param
    with answer_by(bucket) as url:
        yield S3ImageStore(S3StoreOptions("b", endpoint_url=url, region=region, max_attempts=1))


def sign(**options: object) -> str:
    store = S3ImageStore(S3StoreOptions(**options))  # type: ignore[arg-type]
    return store.sign("images/a.png", lifetime_s=60).url


@pytest.mark.parametrize(
    ("bucket", "region", "host"),
    [
        ("pictures", "eu-south-1", "pictures.s3.eu-south-1.amazonaws.com/"),
        ("pictures", "cn-north-1", "pictures.s3.cn-north-1.amazonaws.com.cn/"),
        ("my.pictures", "eu-south-1", "s3.eu-south-1.amazonaws.com/my.pictures/"),
    ],
)
def test_a_url_of_aws_names_the_region(bucket: str, region: str, host: str) -> None:
    assert sign(bucket=bucket, region=region).startswith(f"https://{host}images/a.png?")


@pytest.mark.parametrize(
    "endpoint",
    ["https://s3.example.org", "https://bucket.vpce-1-2.s3.eu-west-1.vpce.amazonaws.com"],
)
def test_a_url_of_another_endpoint_has_the_bucket_in_its_path(endpoint: str) -> None:
    url = sign(bucket="pictures", region="eu-west-1", endpoint_url=endpoint)
    assert url.startswith(f"{endpoint}/pictures/images/a.png?")


@pytest.mark.parametrize(
    ("store", "signed_for"),
    [
        ((RegionalBucket, "us-west-2"), "us-west-2"),
        ((RegionalBucket, None), "us-east-1"),
        ((UnlistedBucket, "us-west-2"), "us-west-2"),
    ],
    indirect=["store"],
)
def test_a_check_finds_that_the_bucket_is_in_another_region(
    store: S3ImageStore, signed_for: str
) -> None:
    reason = f"store.region must be eu-west-1, where bucket b is, got {signed_for}"
    with pytest.raises(StoreConfigurationError, match=reason):
        store.check()


@pytest.mark.parametrize(
    "store",
    [
        (RegionalBucket, "eu-west-1"),
        (LenientBucket, "us-west-2"),
        (SilentBucket, "us-west-2"),
        (HeadlessBucket, "us-west-2"),
    ],
    indirect=True,
)
def test_a_check_passes_where_the_region_is_right_or_does_not_matter(store: S3ImageStore) -> None:
    store.check()
    assert store.get("images/probe").content.startswith(b"zimage-serve")
