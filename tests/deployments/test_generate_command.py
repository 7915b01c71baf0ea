"""`zimage-serve generate`: what is refused before drawing, who is asked, and how Ctrl-C ends it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from local_service import serve_locally
from starlette.responses import Response, StreamingResponse

from deployments.cli import main
from deployments.http_api import GENERATIONS

SMALL = ["--size", "64x64", "--steps", "1"]


def test_ctrl_c_in_the_middle_of_a_step_ends_the_command_with_a_line(
    tiny_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.png"
    drawing = ["generate", "x", "--model", str(tiny_model), "--size", "1024x1024", "--steps", "50"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", *drawing, "-o", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stderr is not None
        seen = b""
        while re.search(rb" [1-9]\d*/50", seen) is None:
            read = os.read(process.stderr.fileno(), 1000)
            assert read, seen
            seen += read
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == b"zimage-serve: interrupted"
    assert b"Traceback" not in errors
    assert not output.exists()


@pytest.mark.parametrize("content", ["hello", '"pools"', "1", b"\xff"])
def test_another_program_at_the_default_address_is_no_service(
    content: str | bytes,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = FastAPI()

    @other.get("/readyz")
    def ready() -> Response:
        return Response(content)

    monkeypatch.setenv("ZIMAGE_MODEL__SOURCE", str(tiny_model))
    output = tmp_path / "out.png"
    with serve_locally(other) as url:
        monkeypatch.setattr("deployments.commands.generate.DEFAULT_URL", url)
        assert main(["generate", "x", *SMALL, "-o", str(output)]) == 0

    assert output.read_bytes().startswith(b"\x89PNG")
    assert "asking" not in capsys.readouterr().out


def test_a_service_at_the_default_address_is_asked_without_the_environments_proxy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = FastAPI()

    @service.get("/readyz")
    def ready() -> dict[str, dict[str, str]]:
        return {"pools": {}}

    @service.post(GENERATIONS)
    def draw() -> Response:
        event = b'data: {"type":"image_generation.completed","b64_json":"cGl4ZWxz"}\n\n'
        return StreamingResponse(iter([event]))

    _set_dead_proxy(monkeypatch)
    monkeypatch.setattr("deployments.commands.generate._PROBE_TIMEOUT_S", 60.0)
    output = tmp_path / "out.png"
    with serve_locally(service) as url:
        monkeypatch.setattr("deployments.commands.generate.DEFAULT_URL", url)
        assert main(["generate", "x", *SMALL, "-o", str(output)]) == 0
        assert f"asking {url}" in capsys.readouterr().out

        # A service that is named may be on another machine.
        assert main(["generate", "x", *SMALL, "-o", str(output), "--url", url]) == 1

    assert output.read_bytes() == b"pixels"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/out.png", "--output must lie in a folder that exists, got {}"),
        ("folder.png", "--output must be a file, got the folder {}"),
        ("folder", "--output must end with one of"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_drawn(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()
    output = tmp_path / name

    # A model that is not there would be refused next.
    assert main(["generate", "x", "--model", str(tmp_path / "none"), "-o", str(output)]) == 1

    assert message.format(output) in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_in_a_folder_that_is_read_only_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    output = tmp_path / "out.png"

    assert main(["generate", "x", "--model", str(tmp_path / "none"), "-o", str(output)]) == 1

    assert f"--output must be writable, got {output}" in capsys.readouterr().err


def test_a_url_that_is_none_is_refused_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.png"

    assert main(["generate", "x", "-o", str(output), "--url", "http://[::1"]) == 1

    assert "a service's URL must be valid, got http://[::1" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--config", "--model"])
def test_an_option_of_this_process_does_not_go_with_a_service(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = ["generate", "x", "-o", str(tmp_path / "out.png"), "--url", "http://127.0.0.1:1"]

    assert main([*asking, option, "embedded"]) == 1

    assert capsys.readouterr().err == (
        f"zimage-serve: {option} must be left out with --url: the service there has its own\n"
    )


def _set_dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")


def test_a_prompt_that_is_not_unicode_is_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As Python reads the byte FF of an argument.
    drawing = ["generate", "\udcff", "--model", str(tiny_model), *SMALL]

    assert main([*drawing, "-o", str(tmp_path / "out.png")]) == 1

    assert capsys.readouterr().err == "zimage-serve: the prompt must be UTF-8\n"
