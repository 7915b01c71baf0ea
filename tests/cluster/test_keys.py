from datetime import date
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import KeyFormatError
from cluster.storage import build_key, check_key

DAY = date(2026, 1, 9)


def test_a_key_has_prefix_day_id_and_index() -> None:
    key = build_key("a/b", DAY, "img_01", 3, "png")
    assert key == "a/b/2026/01/09/img_01/3.png"


def test_a_key_may_have_no_prefix() -> None:
    assert build_key("", DAY, "img_01", 0, "webp") == "2026/01/09/img_01/0.webp"


@pytest.mark.parametrize("prefix", ["/a", "a/", "a//b", "..", "a/../b", ".hidden", "a b", "ä"])
def test_a_prefix_cannot_leave_the_store(prefix: str) -> None:
    with pytest.raises(KeyFormatError, match="prefix must be segments"):
        build_key(prefix, DAY, "img_01", 0, "png")


@pytest.mark.parametrize("id", ["", ".", "..", "a/b", "a.b", "a\n", "a\0", "a" * 129, "日"])
def test_an_id_is_one_plain_segment(id: str) -> None:
    with pytest.raises(KeyFormatError, match="id must be"):
        build_key("images", DAY, id, 0, "png")


def test_an_index_is_not_negative() -> None:
    with pytest.raises(KeyFormatError, match="index must not be negative, got -1"):
        build_key("images", DAY, "img_01", -1, "png")


@pytest.mark.parametrize("extension", ["", ".png", "PNG", "p/g", "png\n"])
def test_an_extension_is_plain(extension: str) -> None:
    with pytest.raises(KeyFormatError, match="extension must be"):
        build_key("images", DAY, "img_01", 0, extension)


def test_a_key_is_not_longer_than_stores_allow() -> None:
    with pytest.raises(KeyFormatError, match="at most 512 characters, got 513"):
        check_key("a/" * 256 + "a")


@given(st.one_of(st.text(), st.text(alphabet="a./\\~-_%")))
def test_a_key_that_passes_stays_below_its_folder(key: str) -> None:
    try:
        check_key(key)
    except KeyFormatError:
        return
    parts = PurePosixPath("/root", key).parts
    assert parts[:2] == ("/", "root")
    assert len(parts) > 2
    assert not any(part.startswith(".") for part in parts)
    assert "/".join(parts[2:]) == key
