"""`zimage-serve run`: what is refused before a cluster starts, and how it finds itself ready."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from local_service import serve_locally
from s3_server import draw_free_ports

from deployments.cli import main
from deployments.commands.run import is_ready


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail at once where a cluster would be started, or one would be joined."""

    @contextlib.contextmanager
    def refuse(*_: object, **__: object) -> Iterator[None]:
        raise OSError("a cluster would start")
        yield

    monkeypatch.setattr("deployments.commands.run.ray_cluster", refuse)


def _run(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    [port] = draw_free_ports(1)
    assert main(["run", "--port", str(port), *options]) == 1
    [line] = capsys.readouterr().out.splitlines()
    return line


def test_a_folder_that_can_be_made_is_a_store(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "images"

    line = _run(capsys, "--model", str(tiny_model), "--store", str(folder))

    assert line == "zimage-serve: a cluster would start"
    assert folder.is_dir()


def test_a_folder_that_cannot_be_written_is_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    options = ("--model", str(tiny_model), "--store", str(tmp_path / "file" / "images"))

    line = _run(capsys, *options)
    joining = _run(capsys, *options, "--address", "127.0.0.1:1")

    assert line == "zimage-serve: the folder store cannot write images/probe: not a directory"
    assert joining == "zimage-serve: a cluster would start"


def test_a_bucket_that_does_not_answer_is_refused(
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [port] = draw_free_ports(1)
    monkeypatch.setenv("ZIMAGE_STORE__ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("ZIMAGE_STORE__KIND", "s3")
    monkeypatch.setenv("ZIMAGE_STORE__MAX_ATTEMPTS", "1")
    monkeypatch.setenv("ZIMAGE_JOBS__STORE__PATH", str(tmp_path / "jobs.sqlite"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    line = _run(capsys, "--model", str(tiny_model), "--store", "s3://pictures")

    assert f"cannot write images/probe in bucket pictures at 127.0.0.1:{port}" in line


def test_a_key_that_the_kernel_cache_cannot_have_is_refused(
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZIMAGE_KERNEL_CACHE__FOLDER", str(tmp_path / "kernels"))
    monkeypatch.setenv("ZIMAGE_KERNEL_CACHE__S3", "{bucket: kernels, prefix: a b}")

    line = _run(capsys, "--model", str(tiny_model), "--store", str(tmp_path / "images"))

    assert "'a b'" in line


def test_readiness_is_asked_without_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    service = FastAPI()

    @service.get("/readyz")
    def ready() -> dict[str, dict[str, str]]:
        return {"pools": {}}

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    with serve_locally(service) as url:
        assert is_ready(url)
    assert not is_ready("http://127.0.0.1:1")
