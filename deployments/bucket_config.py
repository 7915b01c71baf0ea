"""The operator's settings of an S3 bucket, whatever is kept in it."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from cluster.errors import KeyFormatError
from deployments.config_section import Section

if TYPE_CHECKING:
    from cluster.storage import S3StoreOptions


def _check_prefix(prefix: str) -> str:
    from cluster.storage.keys import check_prefix  # boto3 comes with it

    try:
        return check_prefix(prefix)
    except KeyFormatError as exc:
        # The value is told with the path of its key.
        raise ValueError("must be segments of letters, digits, ._-") from exc


Prefix = Annotated[str, AfterValidator(_check_prefix)]
"""What may come before the key of a file."""


class BucketConfig(Section):
    """Credentials, and what is unset, come the way boto3 finds them."""

    bucket: str = Field(min_length=3, description="The bucket; it must exist.")
    prefix: Prefix = Field(default="images", description="First part of every key.")
    endpoint_url: str | None = Field(
        default=None, description="A store that is not AWS; boto3's own settings if unset."
    )
    region: str | None = Field(default=None, description="The region; boto3's own if unset.")
    server_side_encryption: Literal["AES256", "aws:kms"] | None = Field(
        default=None, description="Encryption at rest, if the bucket's default is not enough."
    )
    kms_key_id: str | None = Field(default=None, description="The key of `aws:kms`.")
    checksum: Literal["when_supported", "when_required"] = Field(
        default="when_supported",
        description="`when_required` for older stores that refuse checksums.",
    )
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto", description="`path` for stores without a host name for each bucket."
    )

    def to_options(self, **more: Any) -> "S3StoreOptions":
        """Return the store's options; `more` has those that are not the bucket's.

        Raises:
            ClusterError: If options contradict each other.
        """
        from cluster.storage import S3StoreOptions  # boto3 takes a while to import

        return S3StoreOptions(**self.model_dump(include=set(BucketConfig.model_fields)), **more)
