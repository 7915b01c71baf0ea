"""Configuration comes from a file and the environment, and mistakes are named."""

from pathlib import Path

import pytest

from deployments.cli import main
from deployments.config_file import ConfigurationError, load_config


def test_nothing_given_is_the_embedded_model_and_a_folder() -> None:
    config = load_config(None, {})

    assert config.model.source == "embedded"
    assert config.store.kind == "folder"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "zimage.yaml"
    file.write_text("router: {num_replicas: 2, default_timeout_s: 7}\n")

    config = load_config(file, {"ZIMAGE_ROUTER__NUM_REPLICAS": "3", "PATH": "/bin"})

    assert config.router.num_replicas == 3
    assert config.router.default_timeout_s == 7


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ZIMAGE_STORE__PAHT", "x", "store.paht: no such key, did you mean store.path?"),
        ("ZIMAGE_POOLS", "[{nam: a}]", "pools.0.nam: no such key, did you mean pools.0.name?"),
        ("ZIMAGE_MODLE", "{}", "modle: no such key, did you mean model?"),
        ("ZIMAGE_STORE", "{kind: s3}", "store.bucket: Field required"),
        ("ZIMAGE_ROUTER__NUM_REPLICAS", "0", "router.num_replicas: Input should be greater"),
        ("ZIMAGE_POOLS", "[]", "pools must hold at least one pool"),
        ("ZIMAGE_POOLS", "[{name: a}, {name: a}]", "names of pools must differ"),
        ("ZIMAGE_POOLS", "[{warm_sizes: [8x8x8]}]", "pools.0.warm_sizes.0: String should match"),
        ("ZIMAGE_POOLS", "[{warm_sizes: [250x256]}]", "warm_sizes must divide by 16, got 250x256"),
        (
            "ZIMAGE_POOLS",
            "[{warm_sizes: [512x512], max_pixels: 65536}]",
            "warm_sizes must have at most max_pixels=65536 pixels, got 512x512",
        ),
        ("ZIMAGE_VAE_DECODER__WARM_SIZES", "[16x17]", "warm_sizes must divide by 16, got 16x17"),
        ("ZIMAGE_VAE_DECODER__MIN_REPLICAS", "2", "min_replicas must be at most max_replicas"),
    ],
)
def test_a_mistake_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("?", r"\?")):
        load_config(None, {name: value})


def test_every_mistake_gets_a_line() -> None:
    environment = {"ZIMAGE_MODLE": "{}", "ZIMAGE_ROUTER__NUM_REPLICAS": "0"}

    with pytest.raises(ConfigurationError) as caught:
        load_config(None, environment)

    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("content", ["- a list", "a: [", "just text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "zimage.yaml"
    file.write_text(content)

    with pytest.raises(ConfigurationError, match="configuration file must"):
        load_config(file, {})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be readable"):
        load_config(tmp_path / "none.yaml", {})


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("model: {served_name: é}".encode("latin-1"))

    with pytest.raises(ConfigurationError, match=r"must be UTF-8, got .*latin\.yaml"):
        load_config(file, {})


def test_a_file_with_a_date_that_no_calendar_has_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "dated.yaml"
    file.write_text("model: {served_name: 2026-13-45}")

    with pytest.raises(ConfigurationError, match=r"must be YAML, got .*dated\.yaml"):
        load_config(file, {})


@pytest.mark.parametrize("text", ["[", "*hidden", "!hidden", "@hidden", "2026-13-45", "\x00hidden"])
def test_a_variable_that_is_not_yaml_is_named_without_its_text(text: str) -> None:
    with pytest.raises(ConfigurationError, match="ZIMAGE_STORE must be YAML") as caught:
        load_config(None, {"ZIMAGE_STORE": text})

    assert "hidden" not in str(caught.value)


def test_an_empty_section_under_the_option_of_the_store_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "zimage.yaml"
    file.write_text("store:\n")

    assert main(["check", "--config", str(file), "--store", str(tmp_path)]) == 1

    assert f"store must be a mapping, got None in {file}" in capsys.readouterr().out


def test_a_variable_that_is_no_section_is_named_under_the_option_of_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIMAGE_STORE", "images")

    assert main(["check", "--store", str(tmp_path)]) == 1

    assert "store must be a mapping, got 'images' in ZIMAGE_STORE" in capsys.readouterr().out
