"""The command line: new keys, and addresses that need them."""

from pathlib import Path

import pytest
import yaml
from caller_api import LoadedModel, build_app, write_keys
from local_service import serve_locally

from deployments.cli import main
from deployments.commands.exposure import check_exposure
from deployments.config import AppConfig
from deployments.config_file import ConfigurationError, validate_config
from deployments.keys import KeyRing
from deployments.keys_config import KeysConfig


def test_a_drawn_key_opens_the_entry_that_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "new", "--name", "alice"]) == 0

    printed = capsys.readouterr().out
    (tmp_path / "keys.yaml").write_text(printed)
    key = printed.splitlines()[1].removeprefix("# ")
    caller = KeyRing(tmp_path / "keys.yaml", reload_period_s=1.0).find(key)
    assert caller is not None
    assert caller.key_id == "alice"
    assert key not in str(yaml.safe_load(printed))


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "--name", "../alice"]) == 1

    printed = capsys.readouterr()
    assert "--name must be 1 to 32 of a-z, 0-9 and -" in printed.err
    assert not printed.out


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.1"])
def test_loopback_needs_no_keys(host: str) -> None:
    check_exposure(host, KeysConfig(), insecure_no_keys=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.com"])
def test_another_address_needs_keys(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"as long as keys\.file is unset"):
        check_exposure(host, KeysConfig(), insecure_no_keys=False)


def test_the_operator_may_go_without_keys() -> None:
    check_exposure("0.0.0.0", KeysConfig(insecure_no_keys=True), insecure_no_keys=False)
    check_exposure("0.0.0.0", KeysConfig(), insecure_no_keys=True)


def test_a_service_beyond_loopback_does_not_start_without_keys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--host", "0.0.0.0"]) == 1

    assert "--insecure-no-keys goes without" in capsys.readouterr().err


def test_check_names_the_callers_and_what_is_wrong(
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZIMAGE_KEYS__FILE", str(tmp_path / "keys.yaml"))
    options = ["check", "--model", str(tiny_model), "--store", str(tmp_path / "images")]
    missing = main(options)
    write_keys(tmp_path / "keys.yaml", alice={}, bob={})
    there = main(options)

    printed = capsys.readouterr().out
    assert (missing, there) == (1, 0)
    assert "wrong: keys.file must be readable" in printed
    assert "ok: keys of alice, bob" in printed


def test_several_routers_need_redis_for_their_quotas() -> None:
    with pytest.raises(ConfigurationError, match=r"keys\.redis_url must be set"):
        validate_config({"keys": {"file": "keys.yaml"}, "router": {"num_replicas": 2}})


def test_the_password_of_redis_is_not_printed() -> None:
    config = AppConfig.model_validate({"keys": {"redis_url": "redis://:hidden@127.0.0.1/0"}})

    assert "hidden" not in str(config.model_dump(mode="json"))


def test_a_picture_is_drawn_with_the_key_of_a_file(
    loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = write_keys(tmp_path / "keys.yaml", alice={})["alice"]
    (tmp_path / "key").write_text(f"{key}\n")
    app = build_app(loaded, tmp_path, keys={"file": str(tmp_path / "keys.yaml")})
    output = tmp_path / "out.png"

    with serve_locally(app) as url:
        command = ["generate", "x", "--size", "64x64", "--url", url, "-o", str(output)]
        assert main(command) == 1
        assert not output.exists()
        assert main([*command, "--key-file", str(tmp_path / "key")]) == 0

    assert output.read_bytes().startswith(b"\x89PNG")
    assert key not in "".join(capsys.readouterr())


@pytest.mark.parametrize("content", ["", "two words"])
def test_a_key_file_without_one_key_is_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(content)

    assert main(["generate", "x", "--key-file", str(tmp_path / "key")]) == 1

    assert "--key-file must hold one key" in capsys.readouterr().err
