"""An image store in an S3 bucket, through boto3.

Credentials, and what the options leave open, come the way boto3 finds them: environment, shared
files, the instance's or the pod's role.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, NoCredentialsError

from cluster.errors import ImageNotFoundError, StoreConfigurationError
from cluster.storage.image_store import SignedUrl, StoredImage, check_lifetime, probe
from cluster.storage.keys import check_key
from cluster.storage.metadata import check_content_type, from_headers, to_headers
from cluster.storage.s3_credentials import cap_lifetime, read_expiry
from cluster.storage.s3_errors import check_read, check_stored, name_host, s3_errors
from cluster.storage.s3_options import S3StoreOptions
from cluster.storage.s3_region import check_region, is_of_aws

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_UNKNOWN_TYPE: Final = "application/octet-stream"


class S3ImageStore:
    """Keeps files in a bucket, and presigns URLs that read from it.

    One client, and so one pool of connections, serves all threads of a process. It is built by the
    first call, and again in each process that the store is pickled to.
    """

    def __init__(self, options: S3StoreOptions) -> None:
        self._options = options
        self._lock: Final = threading.Lock()
        self._built: tuple[S3Client, Credentials] | None = None

    def __reduce__(self) -> tuple[type["S3ImageStore"], tuple[S3StoreOptions]]:
        return type(self), (self._options,)

    @property
    def prefix(self) -> str:
        """See `ImageStore.prefix`."""
        return self._options.prefix

    def put(
        self, key: str, content: bytes, *, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        """See `ImageStore.put`. The bucket checks the upload against its checksum."""
        check_key(key)
        check_content_type(content_type)
        headers = to_headers(metadata)
        with self._client("write", key) as client:
            answer = client.put_object(
                Bucket=self._options.bucket,
                Key=key,
                Body=content,
                ContentType=content_type,
                Metadata=headers,
                **self._options.to_checksum(content),
                **self._options.to_encryption(),
            )
            check_stored(answer)

    def get(self, key: str) -> StoredImage:
        """See `ImageStore.get`."""
        check_key(key)
        with self._client("read", key) as client:
            answer = client.get_object(Bucket=self._options.bucket, Key=key)
            check_read(answer)
            # Not as its own context, which gives the socket: its bytes are neither counted nor
            # compared with a checksum.
            with closing(answer["Body"]) as body:
                content = body.read()
            content_type = answer.get("ContentType", _UNKNOWN_TYPE)
        return StoredImage(content, content_type, from_headers(answer["Metadata"]))

    def exists(self, key: str) -> bool:
        """See `ImageStore.exists`; false also where there is no bucket, as S3 does not tell."""
        check_key(key)
        try:
            with self._client("look for", key) as client:
                check_read(client.head_object(Bucket=self._options.bucket, Key=key))
        except ImageNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        """See `ImageStore.delete`."""
        check_key(key)
        # Some servers say that there is none.
        with suppress(ImageNotFoundError), self._client("delete", key) as client:
            client.delete_object(Bucket=self._options.bucket, Key=key)

    def sign(self, key: str, *, lifetime_s: int) -> SignedUrl:
        """See `ImageStore.sign`. Asks the bucket nothing."""
        check_key(key)
        check_lifetime(lifetime_s)
        with self._client("sign", key) as client:
            now = datetime.now(UTC)
            # Read before signing: credentials that are refreshed in between live longer yet.
            expiry = read_expiry(self._connect()[1])
            seconds = cap_lifetime(lifetime_s, expiry, now)
            url = client.generate_presigned_url(
                "get_object",
                Params={"Bucket": self._options.bucket, "Key": key},
                ExpiresIn=seconds,
            )
        return SignedUrl(url, int(now.timestamp()) + seconds)

    def check(self) -> None:
        """See `ImageStore.check`; finds out too whether URLs are signed for the bucket's region."""
        probe(self)
        with self._client("find", "the region") as client:
            check_region(client, self._options.bucket)

    @contextmanager
    def _client(self, verb: str, key: str) -> "Iterator[S3Client]":
        client, _ = self._connect()
        host = name_host(client.meta.endpoint_url)
        with s3_errors(f"cannot {verb} {key} in bucket {self._options.bucket} at {host}"):
            yield client

    def _connect(self) -> tuple["S3Client", Credentials]:
        with self._lock:
            if self._built is None:
                self._built = _build_client(self._options)
            return self._built


def _build_client(options: S3StoreOptions) -> tuple["S3Client", Credentials]:
    with s3_errors(f"cannot connect to bucket {options.bucket}"):
        # Its own: boto3's default session is not safe to build clients on two threads.
        session = boto3.Session(region_name=options.region)
        credentials = session.get_credentials()
        if credentials is None:
            # A client keeps what it was built with, and a metadata service may only be late.
            raise NoCredentialsError
        client = _build_styled(session, options, options.addressing_style)
        if options.addressing_style == "auto" and is_of_aws(client.meta.endpoint_url):
            # By `auto` URLs name no region, and most regions refuse or redirect those.
            client = _build_styled(session, options, "virtual")
        return client, credentials


def _build_styled(
    session: boto3.Session, options: S3StoreOptions, style: Literal["auto", "path", "virtual"]
) -> "S3Client":
    config = Config(
        signature_version="s3v4",
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        max_pool_connections=options.max_connections,
        tcp_keepalive=True,
        # `adaptive` has no bound: one bucket of tokens holds up all calls, minutes after a store
        # that asks for less, and its healthy answers too.
        retries={"mode": "standard", "total_max_attempts": options.max_attempts},
        request_checksum_calculation=options.checksum,
        response_checksum_validation=options.checksum,
        s3={"addressing_style": style},
    )
    try:
        client = session.client("s3", endpoint_url=options.endpoint_url, config=config)
        if "@" in urlsplit(client.meta.endpoint_url).netloc:
            # It would be in every URL that is handed out.
            raise StoreConfigurationError(
                f"endpoint_url of bucket {options.bucket} must have no user or password"
            )
        return client
    except BotoCoreError:
        raise
    except ValueError:
        # botocore's word for an endpoint that is no URL; its text repeats the URL.
        raise StoreConfigurationError(
            f"endpoint_url of bucket {options.bucket} must be an HTTP URL"
        ) from None
