"""The image store that the configuration names, and the threads that call it."""

from typing import Final

from cluster.errors import StoreUnavailableError
from cluster.storage import FolderStoreOptions, ImageStore
from cluster.storage import build_store as build_store_of
from deployments.config import FolderStoreConfig, S3StoreConfig
from deployments.store_threads import StoreThreads

_NUM_FOLDER_THREADS: Final = 16
"""Files are small; a disk gains nothing by more."""


def build_store(config: FolderStoreConfig | S3StoreConfig) -> ImageStore:
    """Build the store; nothing is read or written yet.

    Raises:
        ClusterError: If options contradict each other.
    """
    if isinstance(config, FolderStoreConfig):
        return build_store_of(
            FolderStoreOptions(folder=config.path, base_url=config.base_url, prefix=config.prefix)
        )
    return build_store_of(
        config.to_options(
            max_connections=config.max_connections,
            max_attempts=config.max_attempts,
            connect_timeout_s=config.connect_timeout_s,
            read_timeout_s=config.read_timeout_s,
        )
    )


def check_store(config: FolderStoreConfig | S3StoreConfig) -> None:
    """Write and read back a file of the store; what went wrong names the folder or the bucket.

    Raises:
        ClusterError: If options contradict each other, or the store does not do it.
    """
    try:
        build_store(config).check()
    except StoreUnavailableError as exc:
        if isinstance(config, S3StoreConfig):
            raise
        raise StoreUnavailableError(f"{exc}, in {config.path}") from exc


def build_store_threads(config: FolderStoreConfig | S3StoreConfig) -> StoreThreads:
    """Build as many threads as files may be read and written at once."""
    if isinstance(config, FolderStoreConfig):
        return StoreThreads(_NUM_FOLDER_THREADS, name="image-store")
    return StoreThreads(config.max_connections, name="image-store")
