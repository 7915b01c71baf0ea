"""Compiled kernels that outlive a process: where libraries keep them, and how they travel.

Triton compiles each kernel at its first call and FlashAttention 4 each kind of layout; both keep
what they made under the digest of what it was made from, so a stale file is never read.
"""

import io
import os
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Final

from pipeline.errors import KernelArchiveError

_LIBRARIES: Final = ("torch", "triton", "flash-attn-4")


def keep_kernels(folder: Path) -> None:
    """Have everything that this process compiles from now on kept in a folder, and read from it.

    To be called before FlashAttention is imported. A folder's files name each other by whole paths,
    so it works where it was made and nowhere else.
    """
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    os.environ["FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED"] = "1"
    os.environ["FLASH_ATTENTION_CUTE_DSL_CACHE_DIR"] = str(folder / "flash4")


def name_libraries() -> str:
    """Name the versions of what compiles, those that are installed."""
    versions = []
    for name in _LIBRARIES:
        try:
            versions.append(f"{name}-{metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return "_".join(versions).replace("+", "-")


def pack_kernels(folder: Path) -> bytes:
    """Return a zip archive of every file in a folder, with the folder's own path as its comment."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = str(folder.resolve()).encode()
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".lock":
                archive.write(path, path.relative_to(folder))
    return content.getvalue()


def unpack_kernels(content: bytes, folder: Path, made_in: Path) -> int:
    """Write the archive's files to `folder`, and return their number.

    Args:
        content: What `pack_kernels` returned.
        folder: Where the files are written.
        made_in: Where they will be used.

    Raises:
        KernelArchiveError: If it is no such archive, or was made of a folder at another path.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.comment != str(made_in.resolve()).encode():
                raise KernelArchiveError(
                    f"kernels must have been compiled in {made_in}, "
                    f"got an archive of {archive.comment.decode(errors='replace')!r}"
                )
            archive.extractall(folder)
            return len(archive.namelist())
    except zipfile.BadZipFile as exc:
        raise KernelArchiveError(f"kernels must be in a zip archive, {exc}") from exc
