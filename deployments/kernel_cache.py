"""The folder of compiled kernels of one kind of replica, and the bucket that fills it."""

import hashlib
import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster.errors import ClusterError, ImageNotFoundError
from deployments.config import AppConfig
from deployments.log import logger
from pipeline.acceleration.kernel_cache import (
    keep_kernels,
    name_libraries,
    pack_kernels,
    unpack_kernels,
)
from pipeline.errors import KernelArchiveError

if TYPE_CHECKING:
    from cluster.storage import ImageStore

_CONTENT_TYPE: Final = "application/zip"


@dataclass(frozen=True)
class KernelCache:
    """Kernels by GPU, versions of libraries, model revision and options."""

    root: Path
    bucket: "ImageStore | None"
    scope: str
    """Names revision and options."""

    def open(self, accelerator: str) -> Path:
        """Keep this process's kernels in the folder for the GPU, filled from the bucket if new.

        A bucket that has none, or cannot be asked, costs time and not the replica: it compiles.
        """
        folder = self.folder_of(accelerator)
        if self.bucket is not None and not folder.exists():
            _fill(folder, self.bucket, self._key_of(accelerator, self.bucket))
        keep_kernels(folder)
        return folder

    def publish(self, accelerator: str) -> int:
        """Put the folder for a GPU into the bucket, and return the archive's bytes.

        Raises:
            ClusterError: If the bucket does not take it.
        """
        if self.bucket is None:
            return 0
        content = pack_kernels(self.folder_of(accelerator))
        key = self._key_of(accelerator, self.bucket)
        self.bucket.put(key, content, content_type=_CONTENT_TYPE, metadata={})
        return len(content)

    def folder_of(self, accelerator: str) -> Path:
        """Return where kernels for a GPU are kept."""
        return self.root / self._place_of(accelerator)

    def _key_of(self, accelerator: str, bucket: "ImageStore") -> str:
        from cluster.storage import place_below  # boto3 takes a while to import

        return place_below(bucket.prefix, f"{self._place_of(accelerator)}.zip")

    def _place_of(self, accelerator: str) -> str:
        return f"{accelerator}/{name_libraries()}/{self.scope}"


def _fill(folder: Path, bucket: "ImageStore", key: str) -> None:
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    try:
        num_files = unpack_kernels(bucket.get(key).content, part, made_in=folder)
        # Another replica of this node may have been quicker: its folder is as good.
        part.rename(folder)
        logger.info("%d files of compiled kernels from %s", num_files, key)
    except ImageNotFoundError:
        logger.warning("no compiled kernels at %s: this replica compiles them", key)
    except (ClusterError, KernelArchiveError, OSError) as exc:
        logger.warning("compiled kernels were not fetched, this replica compiles them: %s", exc)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def build_kernel_cache(config: AppConfig, *, revision: str) -> KernelCache | None:
    """Build the cache that the configuration names; None leaves libraries to their own folders."""
    cache = config.kernel_cache
    if cache.folder is None:
        return None
    bucket = None
    if cache.s3 is not None:
        from cluster.storage import build_store  # boto3 takes a while to import

        bucket = build_store(cache.s3.to_options())
    return KernelCache(cache.folder.expanduser().absolute(), bucket, _scope(config, revision))


def _scope(config: AppConfig, revision: str) -> str:
    options = {
        "revision": revision,
        "text_encoder": [config.text_encoder.kernels, config.text_encoder.precision],
        "vae_decoder": [config.vae_decoder.kernels],
        "pools": [
            [
                pool.step_loop.attention,
                pool.step_loop.kernels,
                pool.step_loop.precision,
                *pool.step_loop.bfloat16_layers,
            ]
            for pool in config.pools
        ],
    }
    return hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]
