"""Whatever is kept in a bucket, the bucket is talked to as the operator says."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from deployments.bucket_config import BucketConfig
from deployments.config import S3StoreConfig
from deployments.kernel_cache_config import KernelBucketConfig
from deployments.telemetry_config import UsageS3Config

BUCKET: dict[str, Any] = {
    "bucket": "things",
    "prefix": "mine",
    "endpoint_url": "http://127.0.0.1:1",
    "region": "eu-west-1",
    "server_side_encryption": "aws:kms",
    "kms_key_id": "k",
    "checksum": "when_required",
    "addressing_style": "path",
}


@pytest.mark.parametrize(
    ("kind", "more"),
    [(S3StoreConfig, {"kind": "s3"}), (UsageS3Config, {"kind": "s3"}), (KernelBucketConfig, {})],
)
def test_every_bucket_has_the_same_settings(kind: type[BucketConfig], more: dict[str, str]) -> None:
    options = TypeAdapter(kind).validate_python(BUCKET | more).to_options(max_attempts=7)

    assert {name: getattr(options, name) for name in BUCKET} == BUCKET
    assert options.max_attempts == 7
