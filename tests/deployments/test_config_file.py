"""Configuration comes from a file and the environment, and mistakes are named."""

import traceback
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from deployments.cli import main
from deployments.config import AppConfig
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
        ("ZIMAGE_POOLS", "{name: a}", "^pools: must be a list, got a mapping$"),
        ("ZIMAGE_POOLS", "a", "^pools: must be a list, got a string of 1 characters$"),
        ("ZIMAGE_VAE_DECODER__MIN_REPLICAS", "2", "^vae_decoder: min_replicas must be at most"),
        ("ZIMAGE_WEBHOOKS__ALLOWED_HOSTS", "[A]", "^webhooks.allowed_hosts.0: a host must be"),
        (
            "ZIMAGE_STORE",
            "{prefix: ../x}",
            "^store.prefix: must be segments of letters, digits, ._-, got '../x'$",
        ),
        (
            "ZIMAGE_STORE",
            "{kind: s3, bucket: pictures, prefix: a b}",
            "^store.prefix: must be segments of letters, digits, ._-, got 'a b'$",
        ),
        ("ZIMAGE_LIMITS__MIN_SIDE", "100", "limits.min_side: Input should be a multiple of 16"),
        (
            "ZIMAGE_LIMITS",
            "{min_side: 128, max_pixels: 16383}",
            "max_pixels must be at least min_side squared, got 16383 and min_side 128",
        ),
        (
            "ZIMAGE_POOLS",
            "[{}, {name: a, max_pixels: 4095}]",
            "pools.1.max_pixels must be at least limits.min_side squared, got 4095 and ",
        ),
        ("ZIMAGE_VAE_DECODER__WARM_SIZES", "[16x17]", "warm_sizes must divide by 16, got 16x17"),
        ("ZIMAGE_VAE_DECODER__MIN_REPLICAS", "2", "min_replicas must be at most max_replicas"),
    ],
)
def test_a_mistake_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("?", r"\?")):
        load_config(None, {name: value})


def _find_sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _find_sections(field.annotation)
    for argument in get_args(annotation):
        yield from _find_sections(argument)


@pytest.mark.parametrize("section", sorted(set(_find_sections(AppConfig)), key=str))
@pytest.mark.parametrize("number", [inf, -inf, nan])
def test_no_section_takes_a_number_that_is_not_finite(
    section: type[BaseModel], number: float
) -> None:
    fields = section.model_fields.items()
    numbers = {
        name for name, field in fields if float in (field.annotation, *get_args(field.annotation))
    }
    try:
        section.model_validate(dict.fromkeys(numbers, number))
        refused = set()
    except ValidationError as exc:
        refused = {each["loc"][0] for each in exc.errors() if each["type"] == "finite_number"}

    assert refused == numbers


def test_a_number_that_is_not_finite_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^router.num_cpus: .* finite number, got inf$"):
        load_config(None, {"ZIMAGE_ROUTER__NUM_CPUS": ".inf"})


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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ZIMAGE_WEBHOOKS__SECRET", "whsec_hidden", "whsec_ and 24 to 64 bytes in base64"),
        ("ZIMAGE_WEBHOOKS__SECRET", "7331", "webhooks.secret: Input should be a valid string"),
        ("ZIMAGE_WEBHOOKS", "whsec_hidden", "webhooks: Input should be a valid dictionary"),
        ("ZIMAGE_KEYS", "zs-hidden", "keys: Input should be a valid dictionary"),
        ("ZIMAGE_KEYS__INSECURE_NO_KEYS", "hidden", "keys.insecure_no_keys: Input should be"),
        ("ZIMAGE_KEYS__REDIS_URL", "7331", "keys.redis_url: Input should be a valid string"),
        ("ZIMAGE_JOBS", '{store: "redis://:hidden@h/0"}', "jobs.store: Input should be a valid"),
        ("ZIMAGE_JOBS__STORE__KIND", "redis://:hidden@h/0", "store.kind: must be one of 'sqlite'"),
        ("ZIMAGE_POOLS", "[hidden]", "pools.0: Input should be a valid dictionary"),
        ("ZIMAGE_LIMITS__MIN_SIDE", "https://hidden@h", "limits.min_side: Input should be"),
        ("ZIMAGE_LIMITS__PASSWORD", "hidden", "limits.password: no such key"),
        (
            "ZIMAGE_WEBHOOKS__ALLOWED_HOSTS",
            "['http://hidden@h']",
            "allowed_hosts.0: a host must be",
        ),
    ],
)
def test_what_may_be_a_secret_is_not_told(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_config(None, {name: value})

    told = "".join(traceback.format_exception(caught.value))
    assert "hidden" not in told
    assert "7331" not in told


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ZIMAGE_WEBHOOKS__SECRET", "whsec_hidden", "got a string of 12 characters"),
        ("ZIMAGE_KEYS__REDIS_URL", "7331", "got a number"),
        ("ZIMAGE_KEYS__RELOAD_PERIOD_S", "-1", "got -1"),
        ("ZIMAGE_STORE__URL_LIFETIME_S", "0", "got 0"),
        ("ZIMAGE_LIMITS__MIN_SIDE", "wide", "got 'wide'"),
        ("ZIMAGE_STORE__KIND", "disk", "store.kind: must be one of 'folder', 's3', got 'disk'"),
        ("ZIMAGE_WEBHOOKS__ALLOWED_HOSTS", "[Example.com]", "lower case, got 'Example.com'"),
    ],
)
def test_other_values_are_told_and_secrets_by_their_type(name: str, value: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{told}$"):
        load_config(None, {name: value})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("keys:\n  redis_url: 'redis://:hidden@h\n", "line 2"),
        ("keys: {redis_url: hidden: x}", "line 1, column 25"),
        ("model: {}\nkeys: {redis_url: *hidden}", "line 2, column 19.*undefined alias"),
        ("webhooks: {secret: !hidden x}", "line 1, column 20.*the tag"),
        ("limits: {min_side: !!int hidden}", "line 1, column 20"),
        ("a: &hidden 1\nb: &hidden 2", "line 2, column 4.*duplicate anchor"),
        ("secret: hidden\x00", "character 15"),
        ("[" * 3000, "nested less deeply"),
    ],
)
def test_a_mistake_in_yaml_is_placed_without_the_text(
    content: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "zimage.yaml"
    file.write_text(content)

    with pytest.raises(ConfigurationError, match=rf"must be YAML, got .*yaml: .*{told}") as caught:
        load_config(file, {})

    assert "hidden" not in "".join(traceback.format_exception(caught.value))
    assert len(str(caught.value).splitlines()) == 1


def test_a_key_that_is_there_twice_is_named(tmp_path: Path) -> None:
    file = tmp_path / "zimage.yaml"
    file.write_text("router: {num_replicas: 1}\nlimits: {}\nrouter: {}\n")

    with pytest.raises(ConfigurationError, match=r"line 3, column 1: .*got router twice"):
        load_config(file, {})
    with pytest.raises(ConfigurationError, match=r"ZIMAGE_POOLS: .*got name twice"):
        load_config(None, {"ZIMAGE_POOLS": "[{name: a, 'name': b}]"})


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "zimage.yaml"
    file.write_text("pools: [&one {name: a, num_gpus: 1}, {<<: *one, name: b}]")

    assert [(pool.name, pool.num_gpus) for pool in load_config(file, {}).pools] == [
        ("a", 1),
        ("b", 1),
    ]


@pytest.mark.parametrize("option", ["--store", "--model"])
def test_an_option_without_a_value_is_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", option, ""]) == 1

    assert f"wrong: {option} must be a folder or" in capsys.readouterr().out


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

    assert (
        "store must be a mapping, got a string of 6 characters in ZIMAGE_STORE"
        in capsys.readouterr().out
    )
