"""Fill the weights' volume once: from the hub or from an object store, whole or not at all.

Runs in the head's init container. Several may run at once, as in a roll-out: each fetches into a
folder of its own, and the first to finish renames it to the target.
"""

import argparse
import logging
import os
import shutil
import socket
from pathlib import Path

import boto3
from huggingface_hub import snapshot_download

HUB = "hf://"
OBJECT_STORE = "s3://"
MARKER = "model_index.json"

logger = logging.getLogger("fetch-weights")


def fetch(source: str, target: Path) -> bool:
    """Fetch `source` into `target`; return False if another run has done so already.

    Raises:
        ValueError: If the source is of neither kind, or holds no model.
    """
    if (target / MARKER).is_file():
        return False
    partial = target.with_name(f".{target.name}-{socket.gethostname()}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _download(source, partial)
        if not (partial / MARKER).is_file():
            raise ValueError(f"source must hold {MARKER}, got {source!r}")
        return _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _download(source: str, folder: Path) -> None:
    if source.startswith(HUB):
        name, _, revision = source.removeprefix(HUB).partition("@")
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
        snapshot_download(
            name, revision=revision or None, local_dir=folder, allow_patterns=patterns
        )
        # The hub's client keeps its bookkeeping beside the files.
        shutil.rmtree(folder / ".cache", ignore_errors=True)
    elif source.startswith(OBJECT_STORE):
        bucket, _, prefix = source.removeprefix(OBJECT_STORE).partition("/")
        _download_prefix(bucket, prefix.strip("/"), folder)
    else:
        raise ValueError(f"source must start with {HUB} or {OBJECT_STORE}, got {source!r}")


def _download_prefix(bucket: str, prefix: str, folder: Path) -> None:
    client = boto3.client("s3")
    root = f"{prefix}/" if prefix else ""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root):
        for item in page.get("Contents", []):
            name = item["Key"].removeprefix(root)
            if name and not name.endswith("/"):
                path = folder / name
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise ValueError(f"keys must stay below the prefix, got {item['Key']!r}")
                path.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, item["Key"], str(path))


def _publish(partial: Path, target: Path) -> bool:
    try:
        partial.rename(target)
    except OSError:
        if (target / MARKER).is_file():
            return False
        raise
    return True


def main() -> None:
    """Read source and target from the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default=os.environ.get("WEIGHTS_SOURCE"))
    parser.add_argument("--folder", default=os.environ.get("WEIGHTS_FOLDER"), type=Path)
    options = parser.parse_args()
    if not options.source or not options.folder:
        parser.error("WEIGHTS_SOURCE and WEIGHTS_FOLDER must be set")
    logging.basicConfig(level=logging.INFO)
    fetched = fetch(options.source, options.folder)
    logger.info("%s %s", "fetched" if fetched else "already there:", options.folder)


if __name__ == "__main__":
    main()
