"""The archive in which compiled kernels travel."""

import zipfile
from pathlib import Path

import pytest

from pipeline.acceleration.kernel_cache import pack_kernels, unpack_kernels
from pipeline.errors import KernelArchiveError


def fill(folder: Path) -> None:
    (folder / "triton" / "A").mkdir(parents=True)
    (folder / "triton" / "A" / "rows.cubin").write_bytes(b"cubin")
    (folder / "flash4").mkdir()
    (folder / "flash4" / "forward.so").write_bytes(b"so")
    (folder / "flash4" / "forward.lock").touch()


def test_files_come_back_without_locks(tmp_path: Path) -> None:
    fill(tmp_path / "kernels")

    num_files = unpack_kernels(
        pack_kernels(tmp_path / "kernels"), tmp_path / "copy", made_in=tmp_path / "kernels"
    )

    assert num_files == 2
    assert (tmp_path / "copy" / "triton" / "A" / "rows.cubin").read_bytes() == b"cubin"
    assert (tmp_path / "copy" / "flash4" / "forward.so").read_bytes() == b"so"
    assert not (tmp_path / "copy" / "flash4" / "forward.lock").exists()


def test_another_path_is_refused_with_both(tmp_path: Path) -> None:
    fill(tmp_path / "kernels")
    content = pack_kernels(tmp_path / "kernels")

    with pytest.raises(KernelArchiveError, match=r"compiled in .*elsewhere, got .*kernels"):
        unpack_kernels(content, tmp_path / "copy", made_in=tmp_path / "elsewhere")
    assert not (tmp_path / "copy").exists()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelArchiveError, match="zip archive"):
        unpack_kernels(b"no zip", tmp_path / "copy", made_in=tmp_path)


def test_a_file_never_leaves_the_folder(tmp_path: Path) -> None:
    made_in = tmp_path / "kernels"
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = str(made_in.resolve()).encode()
        archive.writestr("../outside", "x")

    unpack_kernels(path.read_bytes(), tmp_path / "a" / "b", made_in=made_in)

    assert not (tmp_path / "a" / "outside").exists()
