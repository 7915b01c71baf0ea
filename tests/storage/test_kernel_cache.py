"""Compiled kernels in a real S3 store: what one replica compiled, the next one finds."""

import os
from pathlib import Path

import pytest
from s3_server import WRITER, S3Server

from deployments.config import AppConfig
from deployments.kernel_cache import KernelCache, build_kernel_cache

pytestmark = pytest.mark.storage

GPU = "NVIDIA-H200"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a cache sets variables of libraries, which must not outlive a test."""
    for name, value in WRITER.environment.items():
        monkeypatch.setenv(name, value)
    for name in (
        "TRITON_CACHE_DIR",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED",
    ):
        monkeypatch.setenv(name, "")


def build(server: S3Server, root: Path, *, revision: str = "1", **pool: object) -> KernelCache:
    config = AppConfig.model_validate(
        {
            "kernel_cache": {
                "folder": str(root),
                "s3": {"bucket": "images", "endpoint_url": server.endpoint_url},
            },
            "pools": [{"step_loop": pool}],
        }
    )
    cache = build_kernel_cache(config, revision=revision)
    assert cache is not None
    return cache


def compile_kernel(folder: Path) -> Path:
    kernel = folder / "triton" / "ABC" / "rows.cubin"
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(b"\x7fELF")
    return kernel


def test_a_new_node_finds_what_was_published(s3_server: S3Server, tmp_path: Path) -> None:
    cache = build(s3_server, tmp_path / "kernels")
    kernel = compile_kernel(cache.open(GPU))
    cache.publish(GPU)
    (tmp_path / "kernels").rename(tmp_path / "of the other node")

    folder = build(s3_server, tmp_path / "kernels").open(GPU)

    assert kernel.is_relative_to(folder)
    assert kernel.read_bytes() == b"\x7fELF"
    assert os.environ["TRITON_CACHE_DIR"] == str(folder / "triton")
    assert os.environ["FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED"] == "1"


@pytest.mark.parametrize(
    ("revision", "pool", "gpu"),
    [
        ("2", {}, GPU),
        ("1", {"precision": "float8", "kernels": "fused"}, GPU),
        ("1", {}, "NVIDIA-L40S"),
    ],
    ids=["revision", "options", "GPU"],
)
def test_others_have_their_own(
    s3_server: S3Server, tmp_path: Path, revision: str, pool: dict[str, object], gpu: str
) -> None:
    cache = build(s3_server, tmp_path / "kernels")
    kernel = compile_kernel(cache.open(GPU))
    cache.publish(GPU)

    folder = build(s3_server, tmp_path / "kernels", revision=revision, **pool).open(gpu)

    assert not kernel.is_relative_to(folder)
    assert not list(folder.rglob("*.cubin"))


def test_an_archive_of_another_path_is_left_alone(
    s3_server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Triton's files name each other by whole paths."""
    cache = build(s3_server, tmp_path / "one")
    compile_kernel(cache.open(GPU))
    cache.publish(GPU)

    folder = build(s3_server, tmp_path / "two").open(GPU)

    assert not folder.exists()
    assert f"compiled in {folder}" in caplog.text


def test_without_a_bucket_a_replica_compiles(
    tmp_path: Path, s3_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    config = AppConfig.model_validate(
        {
            "kernel_cache": {
                "folder": str(tmp_path),
                "s3": {"bucket": "no-such-bucket", "endpoint_url": s3_server.endpoint_url},
            }
        }
    )
    cache = build_kernel_cache(config, revision="1")
    assert cache is not None

    folder = cache.open(GPU)

    assert os.environ["TRITON_CACHE_DIR"] == str(folder / "triton")
    assert "this replica compiles them" in caplog.text
