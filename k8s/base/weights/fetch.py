"""Fill the weights' volume once: from the hub or from an object store, whole or not at all.

Runs in the head's init container. Several may run at once, as in a roll-out: each fetches into a
folder of its own, and the first to finish renames it to the target. A folder holds one source for
good: the cluster that a roll-out replaces, and one that is rolled back to, read what they know.
"""

import argparse
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import boto3
from huggingface_hub import snapshot_download

HUB = "hf://"
OBJECT_STORE = "s3://"
MODEL = "model_index.json"
MARKER = ".source"
"""The file beside the model that names its source, revision and all."""
ABANDONED_S = 3600.0
"""A download that nothing was added to for so long has ended with its pod."""

logger = logging.getLogger("fetch-weights")


def fetch(source: str, target: Path) -> bool:
    """Fetch `source` into `target`; return False if another run has done so already.

    Raises:
        ValueError: If the source is of neither kind, or holds no model, or if the target is
            another source's.
    """
    remove_abandoned(target)
    if _is_there(source, target):
        return False
    partial = target.with_name(f".{target.name}-{socket.gethostname()}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _download(source, partial)
        if not (partial / MODEL).is_file():
            raise ValueError(f"source must hold {MODEL}, got {source!r}")
        (partial / MARKER).write_text(f"{source}\n", "utf-8")
        return _publish(source, partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_abandoned(target: Path) -> None:
    """Remove what downloads for this target have left that were killed."""
    for folder in target.parent.glob(f".{target.name}-*"):
        if time.time() - _last_change_s(folder) > ABANDONED_S:
            shutil.rmtree(folder, ignore_errors=True)


def _last_change_s(folder: Path) -> float:
    times = [folder.lstat().st_mtime]
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            # Another run may be removing the same folder.
            with contextlib.suppress(FileNotFoundError):
                times.append(os.lstat(Path(root, name)).st_mtime)
    return max(times)


def _is_there(source: str, target: Path) -> bool:
    if not (target / MODEL).is_file():
        return False
    marker = target / MARKER
    # A folder without one was filled by hand.
    held = marker.read_text("utf-8").strip() if marker.is_file() else source
    if held != source:
        raise ValueError(
            f"{target} must hold {source}, got {held}: give WEIGHTS_FOLDER, and model.source with "
            "it, a name of its own for each revision"
        )
    return True


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


def _publish(source: str, partial: Path, target: Path) -> bool:
    try:
        partial.rename(target)
    except OSError:
        if _is_there(source, target):
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
    # The first process of a container ignores the signal unless it says otherwise.
    signal.signal(signal.SIGTERM, lambda signum, _frame: sys.exit(128 + signum))
    fetched = fetch(options.source, options.folder)
    logger.info("%s %s", "fetched" if fetched else "already there:", options.folder)


if __name__ == "__main__":
    main()
