"""Whether URLs are signed for the region that the bucket is in.

botocore mends a call to another region by a second one; whoever reads a presigned URL cannot.
"""

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from cluster.errors import StoreConfigurationError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_STRICT_SERVERS: Final = frozenset({"AmazonS3", "MinIO"})
"""They refuse a signature for another region than they name; others name one and take any."""


def is_of_aws(endpoint_url: str) -> bool:
    """Say whether the endpoint is a region's own, not another store's or a VPC's."""
    host = urlsplit(endpoint_url).hostname or ""
    return host.startswith(("s3.", "s3-")) and host.endswith(
        (".amazonaws.com", ".amazonaws.com.cn")
    )


def check_region(client: "S3Client", bucket: str) -> None:
    """Refuse a client that signs for another region than the bucket's, where the store names it.

    Raises:
        StoreConfigurationError: If the region is another one.
    """
    headers = _ask(client, bucket)
    region = headers.get("x-amz-bucket-region", "")
    signed_for = client.meta.region_name
    if headers.get("server") in _STRICT_SERVERS and region not in ("", signed_for):
        raise StoreConfigurationError(
            f"store.region must be {region}, where bucket {bucket} is, got {signed_for}"
        )


def _ask(client: "S3Client", bucket: str) -> dict[str, str]:
    try:
        return client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
    except ClientError as error:
        # Credentials that may not list the bucket are refused; the answer names the region still.
        return error.response["ResponseMetadata"]["HTTPHeaders"]
