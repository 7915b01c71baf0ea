"""The operator's configuration of compiled kernels."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from deployments.bucket_config import BucketConfig
from deployments.config_section import Section


class KernelBucketConfig(BucketConfig):
    """Where kernels travel through."""

    bucket: str = Field(
        min_length=3,
        description="The bucket; whoever writes to it runs code in every replica.",
    )
    prefix: str = Field(default="kernels", description="First part of every key.")


class KernelCacheConfig(Section):
    """What replicas compile, kept for those that come after them."""

    folder: Path | None = Field(
        default=None,
        description="Where replicas keep compiled kernels, at the same path on every node; each "
        "library's own folder if unset.",
    )
    s3: KernelBucketConfig | None = Field(
        default=None,
        description="Where `zimage-serve warm` puts that folder, and from where a replica without "
        "it takes it.",
    )

    @model_validator(mode="after")
    def _a_bucket_fills_a_folder(self) -> Self:
        if self.s3 is not None and self.folder is None:
            raise ValueError("folder must be given with s3, got none")
        return self
