import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.storage.metadata import check_content_type, from_headers, to_headers


@given(st.dictionaries(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), st.text(max_size=20)))
def test_metadata_survives_its_headers(metadata: dict[str, str]) -> None:
    headers = to_headers(metadata)
    assert from_headers(headers) == metadata
    assert all(value.isascii() and value == value.strip() for value in headers.values())


def test_plain_values_stay_readable() -> None:
    metadata = {"model": "Tongyi-MAI/Z-Image-Turbo", "size": "1024x1024"}
    assert to_headers(metadata) == metadata


def test_values_outside_ascii_are_percent_encoded() -> None:
    assert to_headers({"model": "造 100%"}) == {"model": "%E9%80%A0%20100%25"}


@pytest.mark.parametrize("name", ["", "Seed", "a_b", "a b", "a:", "-a", "ä"])
def test_names_are_those_that_headers_keep(name: str) -> None:
    with pytest.raises(ValueError, match="metadata names must be"):
        to_headers({name: "1"})


def test_metadata_has_the_size_that_s3_takes() -> None:
    to_headers({"a": "b" * 2047})
    with pytest.raises(ValueError, match="at most 2048 bytes, got 2049"):
        to_headers({"a": "b" * 2048})


@pytest.mark.parametrize("content_type", ["", "png", "image/", "image/png\r\nx: y", "IMAGE/PNG"])
def test_a_content_type_is_a_media_type(content_type: str) -> None:
    with pytest.raises(ValueError, match="content_type must be type/subtype"):
        check_content_type(content_type)
