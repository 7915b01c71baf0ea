"""The file of keys: what it takes, what it refuses, and what it never repeats."""

from pathlib import Path

import pytest
import yaml
from caller_api import write_keys

from deployments.config_file import ConfigurationError
from deployments.key_file import draw_key, find_entry, hash_key, read_key_file
from deployments.keys import KeyRing
from deployments.log import logger


class HandClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def open_ring(file: Path, clock: HandClock | None = None) -> KeyRing:
    return KeyRing(file, reload_period_s=1.0, clock=clock or HandClock())


def test_a_key_is_known_by_its_hash(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.yaml", alice={}, bob={})

    ring = open_ring(tmp_path / "keys.yaml")

    assert [getattr(ring.find(keys[name]), "key_id", None) for name in keys] == ["alice", "bob"]


def test_the_file_holds_nothing_of_the_key(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.yaml", alice={})

    assert keys["alice"].rpartition("-")[2] not in (tmp_path / "keys.yaml").read_text()


def test_the_same_key_has_another_hash_each_time() -> None:
    key = draw_key("alice")

    assert hash_key(key) != hash_key(key)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "zs-alice",
        "zs-alice-" + "0" * 64,
        "zs-nobody-" + "0" * 64,
        "zs-alice-" + "０" * 64,
        "zs-alice\n-" + "0" * 64,
        "x" * 100_000,
        "zs-" + "-" * 50_000,
    ],
    ids=["empty", "no-secret", "wrong", "unknown", "wide-digits", "newline", "long", "dashes"],
)
def test_another_key_is_nobodys(tmp_path: Path, key: str) -> None:
    write_keys(tmp_path / "keys.yaml", alice={})

    assert open_ring(tmp_path / "keys.yaml").find(key) is None


def test_one_callers_secret_does_not_open_anothers_name(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.yaml", alice={}, bob={})

    forged = keys["alice"].replace("zs-alice-", "zs-bob-")

    assert open_ring(tmp_path / "keys.yaml").find(forged) is None


def test_two_keys_of_a_caller_are_good_while_one_is_replaced(tmp_path: Path) -> None:
    old, new = draw_key("alice"), draw_key("alice")
    entry = {"name": "alice", "hashes": [hash_key(old), hash_key(new)]}
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": [entry]}))

    entries = {each.name: each for each in read_key_file(tmp_path / "keys.yaml").keys}

    assert find_entry(entries, old) is find_entry(entries, new) is entries["alice"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    clock = HandClock()
    before = write_keys(tmp_path / "keys.yaml", alice={})
    ring = open_ring(tmp_path / "keys.yaml", clock)
    after = write_keys(tmp_path / "keys.yaml", bob={}, carol={})

    clock.now_s = 1.0

    assert ring.find(before["alice"]) is None
    assert ring.find(after["bob"]) is not None


def test_a_mounted_secret_is_read_again_when_its_link_moves(tmp_path: Path) -> None:
    clock = HandClock()
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
    before = write_keys(tmp_path / "one" / "keys.yaml", alice={})
    after = write_keys(tmp_path / "two" / "keys.yaml", alice={})
    (tmp_path / "data").symlink_to("one")
    ring = open_ring(tmp_path / "data" / "keys.yaml", clock)

    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(tmp_path / "data")
    clock.now_s = 1.0

    assert ring.find(before["alice"]) is None
    assert ring.find(after["alice"]) is not None


@pytest.mark.parametrize(
    "content",
    ["keys: [", "keys: 5", "keys:\n- name: x\n", "keys: 2024-13-45", "[" * 5000],
    ids=["cut", "number", "no hashes", "no date", "deep"],
)
def test_a_file_that_went_wrong_leaves_the_keys_as_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    clock = HandClock()
    keys = write_keys(tmp_path / "keys.yaml", alice={})
    ring = open_ring(tmp_path / "keys.yaml", clock)

    (tmp_path / "keys.yaml").write_text(content)
    clock.now_s = 1.0
    with caplog.at_level("ERROR", logger.name):
        found = ring.find(keys["alice"])

    assert found is not None
    assert "keys stay as they were" in caplog.text


def test_a_key_in_the_place_of_a_hash_is_refused_and_not_repeated(tmp_path: Path) -> None:
    key = draw_key("alice")
    entry = {"name": "alice", "hashes": [key]}
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": [entry]}))

    with pytest.raises(ConfigurationError, match="hash 0 must be hmac-sha256") as caught:
        read_key_file(tmp_path / "keys.yaml")

    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"prefix": "../bob"}, "prefix must be segments"),
        ({"max_pixels": 0}, "greater than 0"),
        ({"units_per_minute": -1}, "greater than 0"),
        ({"units_per_day": float("inf")}, "finite number"),
        ({"priorities": []}, "at least 1 item"),
        ({"priorities": ["urgent"]}, "'interactive' or 'batch'"),
        ({"unit_per_day": 5}, "Extra inputs are not permitted"),
    ],
)
def test_an_entry_that_breaks_a_rule_is_refused(
    tmp_path: Path, fields: dict[str, object], rule: str
) -> None:
    write_keys(tmp_path / "keys.yaml", alice=fields)

    with pytest.raises(ConfigurationError, match=rule):
        read_key_file(tmp_path / "keys.yaml")


def test_two_callers_cannot_share_a_prefix(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.yaml", alice={}, bob={"prefix": "alice"})

    with pytest.raises(ConfigurationError, match="prefix must be its own"):
        read_key_file(tmp_path / "keys.yaml")


def test_a_missing_file_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"keys\.file must be readable"):
        open_ring(tmp_path / "keys.yaml")
