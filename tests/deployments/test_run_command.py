"""`zimage-serve run`: what is refused before a cluster starts, and how it finds itself ready."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from local_service import serve_locally
from s3_server import draw_free_ports

from deployments.cli import main
from deployments.commands.cluster import check_address
from deployments.commands.run import build_example, is_ready, to_url_host
from deployments.keys_config import KeysConfig


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
    [line] = capsys.readouterr().err.splitlines()
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

    folder = tmp_path / "file" / "images"
    assert line == (
        f"zimage-serve: the folder store cannot write images/probe: not a directory, in {folder}"
    )
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ZIMAGE_JOBS__STORE", "{{kind: redis, url: '{}'}}"),
        ("ZIMAGE_KEYS__REDIS_URL", "{}"),
    ],
)
@pytest.mark.parametrize(
    "url", ["redis://:hidden@127.0.0.1:{}", "redis://:hid/hidden@127.0.0.1:{}"]
)
def test_a_redis_that_keeps_what_must_last_is_asked_before_a_cluster_starts(
    name: str,
    value: str,
    url: str,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [port] = draw_free_ports(1)
    monkeypatch.setenv(name, value.format(url.format(port)))
    options = ("--model", str(tiny_model), "--store", str(tmp_path))

    line = _run(capsys, *options)
    joining = _run(capsys, *options, "--address", "127.0.0.1:1")

    assert line.startswith(("zimage-serve: jobs.store: ", "zimage-serve: keys.redis_url: "))
    assert "hidden" not in line
    assert joining == "zimage-serve: a cluster would start"


def test_a_cache_that_is_away_is_told_and_does_not_keep_a_service_from_starting(
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [port, cache_port] = draw_free_ports(2)
    monkeypatch.setenv("ZIMAGE_CACHE__REDIS_URL", f"redis://:hidden@127.0.0.1:{cache_port}")
    options = ["--port", str(port), "--model", str(tiny_model), "--store", str(tmp_path)]

    assert main(["run", *options]) == 1
    printed = capsys.readouterr()

    assert printed.out.startswith(
        f"warning: cache.redis_url: redis://127.0.0.1:{cache_port} failed: "
    )
    assert printed.err == "zimage-serve: a cluster would start\n"


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


@pytest.mark.parametrize("text", ["", "nonsense", "host:", "host:0", "host:65536", "http://h:1"])
def test_an_address_of_no_cluster_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = _run(capsys, "--address", text)

    rule = "--address must be auto, HOST:PORT or ray://HOST:PORT"
    assert line == f"zimage-serve: {rule}, got {text!r}"


@pytest.mark.parametrize("text", ["auto", "10.0.0.1:6379", "[::1]:6379", "ray://head:10001"])
def test_an_address_of_a_cluster_is_taken(text: str) -> None:
    check_address(text)


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
@pytest.mark.parametrize("text", ["abc", "0", "65536", "-1", "8e3", ""])
def test_a_port_that_is_none_is_refused(
    option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["run", f"{option}={text}"])

    message = f"argument {option}: port must be in [1, 65535], got {text!r}"
    assert capsys.readouterr().err.splitlines()[-1].endswith(message)


@pytest.mark.parametrize(
    ("options", "is_warned"),
    [
        (["--host", "0.0.0.0"], True),
        (["--host", "0.0.0.0", "--address", "127.0.0.1:1"], True),
        (["--host", "127.0.0.1"], False),
    ],
)
def test_urls_that_other_machines_cannot_follow_are_told(
    options: list[str],
    is_warned: bool,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [port] = draw_free_ports(1)
    running = ["run", "--port", str(port), "--model", str(tiny_model), "--store", str(tmp_path)]
    running += ["--insecure-no-keys", *options]

    main(running)
    by_default = capsys.readouterr().out.splitlines()
    monkeypatch.setenv("ZIMAGE_STORE__BASE_URL", "https://pictures.example")
    main(running)
    told = capsys.readouterr().out.splitlines()

    assert (
        by_default
        == [
            "warning: URLs of pictures name 127.0.0.1, which other machines do not reach: "
            "set store.base_url to where they reach this service"
        ]
        * is_warned
    )
    assert told == []


@pytest.mark.parametrize(
    ("host", "named"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("localhost", "localhost")],
)
def test_an_address_to_listen_on_has_a_place_in_a_url(host: str, named: str) -> None:
    assert to_url_host(host) == named


def test_the_example_of_a_service_with_keys_shows_one() -> None:
    open_lines = build_example("http://h:1", KeysConfig())
    keyed_lines = build_example("http://h:1", KeysConfig(file=Path("keys.yaml")))

    assert shlex.split("\n".join(keyed_lines).replace("\\\n", "")) == [
        "curl",
        "http://h:1/v1/images/generations",
        "-H",
        "content-type: application/json",
        "-H",
        "authorization: Bearer $KEY",
        "-d",
        '{"prompt": "a red circle on a blue background"}',
    ]
    assert "authorization" not in "".join(open_lines)


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
