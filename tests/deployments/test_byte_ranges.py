"""Which bytes a `Range` header asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.byte_ranges import ByteRange, parse_range
from deployments.errors import EmptyRangeError


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=2-5", 2, 5),
        ("bytes=2-", 2, 9),
        ("bytes=9-", 9, 9),
        ("bytes=2-99", 2, 9),
        (f"bytes=2-{'9' * 32}", 2, 9),
        ("bytes=-3", 7, 9),
        ("bytes=-99", 0, 9),
        ("Bytes= 2-5\t", 2, 5),
    ],
)
def test_a_range_is_a_part_of_the_file(header: str, first: int, last: int) -> None:
    assert parse_range(header, 10) == ByteRange(first, last)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-2",
        "bytes=a-b",
        "bytes=0-1,3-4",
        "bytes=0--1",
        "bytes=+1-2",
        "bytes=1 - 2",
        "lines=0-1",
        "bytes=0-" + "9" * 5000,
    ],
)
def test_what_is_no_single_range_of_bytes_stands_for_the_whole(header: str) -> None:
    assert parse_range(header, 10) is None


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=11-", "bytes=-0"])
def test_a_range_without_a_byte_of_the_file_is_refused(header: str) -> None:
    with pytest.raises(EmptyRangeError, match="range must"):
        parse_range(header, 10)


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1"])
def test_an_empty_file_has_no_parts(header: str) -> None:
    assert parse_range(header, 0) is None


@given(st.integers(1, 100), st.data())
def test_two_parts_make_the_whole(length: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, length))
    content = bytes(range(length))

    head = parse_range(f"bytes=0-{cut - 1}", length)
    tail = parse_range(f"bytes=-{length - cut}", length) if cut < length else None

    assert head is not None
    rest = b"" if tail is None else content[tail.first : tail.last + 1]
    assert content[head.first : head.last + 1] + rest == content
