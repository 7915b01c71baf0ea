"""A file of several strips decodes to what one of a single strip does, with any decoder."""

import os
from io import BytesIO

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import Base

from pipeline import jpeg
from pipeline.jpeg import choose_strip_rows, encode_jpeg
from pipeline.pixels import Pixels

SIZES = [(64, 96), (512, 512), (1000, 1016), (1024, 1024), (333, 2047), (8, 40_000), (2040, 40)]
"""One strip; whole ones; a last one that is shorter, and whose blocks are not whole."""


def draw_pixels(height: int, width: int) -> Pixels:
    """A ramp with grain: neither constant nor noise alone."""
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 30, height)[:, None, None]
    grain = np.random.default_rng(0).integers(0, 25, (height, width, 3))
    return (ramp + grain).astype(np.uint8)


def encode_at_once(pixels: Pixels, quality: int) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:4:4")
    return file.getvalue()


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("quality", [20, 95])
def test_strips_decode_to_the_pixels_of_one_file(height: int, width: int, quality: int) -> None:
    pixels = draw_pixels(height, width)

    content = encode_jpeg(pixels, quality=quality, exif=Image.Exif())

    expected = np.asarray(Image.open(BytesIO(encode_at_once(pixels, quality))))
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(content))), expected)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decoded, expected)


def test_the_first_strip_brings_the_metadata() -> None:
    exif = Image.Exif()
    exif[Base.Software] = "zimage-serve"

    content = encode_jpeg(draw_pixels(512, 512), quality=95, exif=exif)

    assert Image.open(BytesIO(content)).getexif()[Base.Software] == "zimage-serve"
    assert content.count(b"zimage-serve") == 1


def test_more_strips_than_restart_markers_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "choose_strip_rows", lambda height, width: 8)
    pixels = draw_pixels(8 * 19 + 3, 40)

    content = encode_jpeg(pixels, quality=95, exif=Image.Exif())

    expected = np.asarray(Image.open(BytesIO(encode_at_once(pixels, 95))))
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decoded, expected)


def test_a_sandbox_that_forbids_files_in_memory_gets_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = draw_pixels(512, 512)
    expected = encode_jpeg(pixels, quality=95, exif=Image.Exif())

    def refuse(name: str) -> int:
        raise PermissionError(1, name)

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    assert encode_jpeg(pixels, quality=95, exif=Image.Exif()) == expected


@pytest.mark.parametrize("num_threads", [1, 3, None])
def test_bytes_do_not_depend_on_the_number_of_threads(num_threads: int | None) -> None:
    pixels = draw_pixels(512, 768)
    alone = encode_jpeg(pixels, quality=95, exif=Image.Exif(), num_threads=2)
    assert encode_jpeg(pixels, quality=95, exif=Image.Exif(), num_threads=num_threads) == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_encodes_too() -> None:
    pixels = draw_pixels(512, 512)
    encode_jpeg(pixels, quality=95, exif=Image.Exif())

    child = os.fork()
    if child == 0:
        encode_jpeg(pixels, quality=95, exif=Image.Exif())
        os._exit(7)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_sides_that_a_file_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 65500 pixels, got 8x65501"):
        encode_jpeg(np.zeros((65_501, 8, 3), np.uint8), quality=95, exif=Image.Exif())


@given(st.integers(1, 65_500), st.integers(1, 65_500))
def test_blocks_of_strips_can_be_counted(height: int, width: int) -> None:
    rows = choose_strip_rows(height, width)

    if rows < height:
        assert rows % 8 == 0
        assert 1 <= (rows // 8) * -(-width // 8) <= 65_535
    else:
        assert height <= 8 or height * width < 2 * 256 * 256


@pytest.mark.parametrize("side", [512, 1024, 2048])
def test_a_picture_is_spread_over_as_many_cores_as_pay(side: int) -> None:
    num_strips = -(-side // choose_strip_rows(side, side))
    assert num_strips == min(8, side**2 // 256**2)
