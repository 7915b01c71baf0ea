"""Which bucket, and how to talk to it."""

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, TypedDict

from cluster.checksums import to_content_md5
from cluster.errors import StoreConfigurationError
from cluster.storage.keys import check_prefix


class ChecksumArguments(TypedDict, total=False):
    """Arguments of `put_object` that name what the content must hash to."""

    ChecksumSHA256: str
    ContentMD5: str


class EncryptionArguments(TypedDict, total=False):
    """Arguments of `put_object` that name how the bucket encrypts the file."""

    ServerSideEncryption: Literal["AES256", "aws:kms"]
    SSEKMSKeyId: str


@dataclass(frozen=True)
class S3StoreOptions:
    """Which bucket, and how to talk to it. Credentials are boto3's to find.

    Raises:
        StoreConfigurationError: If options contradict each other or are out of range.
        KeyFormatError: If the prefix has characters that keys do not have.
    """

    bucket: str
    prefix: str = "images"
    endpoint_url: str | None = None
    """None is AWS, or what `AWS_ENDPOINT_URL` says."""
    region: str | None = None
    """None is what boto3 finds."""
    server_side_encryption: Literal["AES256", "aws:kms"] | None = None
    """None leaves it to the bucket's own default."""
    kms_key_id: str | None = None
    checksum: Literal["when_supported", "when_required"] = "when_supported"
    """`when_required` sends `Content-MD5` alone, which stores older than 2022 know too."""
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """`path` for stores that have a host name but none for each bucket."""
    max_attempts: int = 4
    """The first try and its retries, with up to 1, 2, 4 ... seconds between."""
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 20.0
    max_connections: int = 32
    """How many threads may talk to the bucket at once without waiting for each other."""

    def __post_init__(self) -> None:
        check_prefix(self.prefix)
        if not self.bucket:
            raise StoreConfigurationError("bucket must not be empty")
        if self.kms_key_id is not None and self.server_side_encryption != "aws:kms":
            raise StoreConfigurationError(
                "kms_key_id must go with server_side_encryption aws:kms, "
                f"got {self.server_side_encryption}"
            )
        for name, number in (
            ("max_attempts", self.max_attempts),
            ("connect_timeout_s", self.connect_timeout_s),
            ("read_timeout_s", self.read_timeout_s),
            ("max_connections", self.max_connections),
        ):
            if number <= 0:
                raise StoreConfigurationError(f"{name} must be positive, got {number}")

    def to_checksum(self, content: bytes) -> ChecksumArguments:
        """Hash a file into the header that the bucket will check it by."""
        if self.checksum == "when_supported":
            return {"ChecksumSHA256": b64encode(sha256(content).digest()).decode()}
        return {"ContentMD5": to_content_md5(content)}

    def to_encryption(self) -> EncryptionArguments:
        """Say how the bucket is to encrypt a file."""
        arguments: EncryptionArguments = {}
        if self.server_side_encryption is not None:
            arguments["ServerSideEncryption"] = self.server_side_encryption
        if self.kms_key_id is not None:
            arguments["SSEKMSKeyId"] = self.kms_key_id
        return arguments
