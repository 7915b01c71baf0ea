"""Image stores: where finished files go, and the URLs that read them."""

from cluster.storage.folder import FolderImageStore, FolderStoreOptions
from cluster.storage.image_store import MAX_LIFETIME_S, ImageStore, SignedUrl, StoredImage
from cluster.storage.keys import build_key, check_key, place_below
from cluster.storage.s3 import S3ImageStore
from cluster.storage.s3_options import S3StoreOptions

__all__ = [
    "MAX_LIFETIME_S",
    "FolderImageStore",
    "FolderStoreOptions",
    "ImageStore",
    "S3ImageStore",
    "S3StoreOptions",
    "SignedUrl",
    "StoredImage",
    "build_key",
    "build_store",
    "check_key",
    "place_below",
]


def build_store(options: FolderStoreOptions | S3StoreOptions) -> ImageStore:
    """Build the store that the options are for."""
    if isinstance(options, FolderStoreOptions):
        return FolderImageStore(options)
    return S3ImageStore(options)
