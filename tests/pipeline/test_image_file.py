"""Files are made and read back with decoders that share no code with the encoder."""

import struct
from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cluster.storage.metadata import from_headers, to_headers
from pipeline.errors import InvalidRequestError
from pipeline.image_file import (
    OutputFormat,
    check_output_compression,
    encode_image,
    read_provenance,
)
from pipeline.pixels import Pixels
from pipeline.png import encode_png
from pipeline.provenance import ImageProvenance
from pipeline.request import ImageSize, RenderPath

PROVENANCE = ImageProvenance(
    software="zimage-serve 0.1.0",
    request_id="req_0123",
    model="Tongyi-MAI/Z-Image-Turbo",
    model_revision="0123456789abcdef",
    seed=2**63 - 1,
    size=ImageSize(height=64, width=96),
    num_inference_steps=8,
    path=RenderPath.TILED,
    fingerprint="cpu/float32/full",
)

sides = st.integers(1, 40)
pixel_arrays = st.tuples(sides, sides).flatmap(lambda side: arrays(np.uint8, (*side, 3)))


def draw_pixels(height: int = 64, width: int = 96) -> Pixels:
    """A ramp with grain: neither constant nor noise alone."""
    ramp = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, width, 3))
    grain = np.random.default_rng(0).integers(0, 50, ramp.shape)
    return (ramp + grain).astype(np.uint8)


def decode_with_pillow(content: bytes) -> Pixels:
    with Image.open(BytesIO(content)) as image:
        return np.asarray(image)


def decode_with_libpng(content: bytes) -> Pixels:
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    return np.asarray(decoded, np.uint8)


@given(pixel_arrays)
def test_png_gives_back_every_pixel(pixels: Pixels) -> None:
    content = encode_png(pixels, {})
    np.testing.assert_array_equal(decode_with_pillow(content), pixels)
    np.testing.assert_array_equal(decode_with_libpng(content), pixels)


@given(st.integers(1, 300), st.integers(0, 255))
def test_png_of_one_colour_gives_back_every_pixel(side: int, value: int) -> None:
    pixels = np.full((side, side, 3), value, np.uint8)
    np.testing.assert_array_equal(decode_with_libpng(encode_png(pixels, {})), pixels)


def test_png_text_outside_ascii_is_kept() -> None:
    content = encode_png(draw_pixels(), {"model": "造相"})
    assert b"iTXt" in content
    assert Image.open(BytesIO(content)).info == {"model": "造相"}


def test_png_names_true_colour_of_eight_bits() -> None:
    header = encode_png(draw_pixels(height=3, width=5), {})[16:29]
    assert struct.unpack(">IIBBBBB", header) == (5, 3, 8, 2, 0, 0, 0)


@pytest.mark.parametrize("output_format", OutputFormat)
def test_provenance_is_read_back_from_the_file(output_format: OutputFormat) -> None:
    content = encode_image(draw_pixels(), PROVENANCE, output_format=output_format)
    assert read_provenance(content) == PROVENANCE


@pytest.mark.parametrize("output_format", OutputFormat)
def test_provenance_outside_ascii_is_read_back(output_format: OutputFormat) -> None:
    provenance = replace(PROVENANCE, model="造相 ½")
    content = encode_image(draw_pixels(), provenance, output_format=output_format)
    assert read_provenance(content) == provenance


def test_provenance_is_metadata_that_every_store_takes() -> None:
    assert ImageProvenance.from_text(from_headers(to_headers(PROVENANCE.to_text()))) == PROVENANCE


def test_a_png_names_its_software_as_the_standard_does() -> None:
    text = Image.open(BytesIO(encode_image(draw_pixels(), PROVENANCE))).info
    assert text["Software"] == "zimage-serve 0.1.0"


@pytest.mark.parametrize("output_format", OutputFormat)
def test_a_file_is_of_the_format_and_size_asked_for(output_format: OutputFormat) -> None:
    content = encode_image(draw_pixels(), PROVENANCE, output_format=output_format)
    image = Image.open(BytesIO(content))
    assert (image.get_format_mimetype(), image.size) == (output_format.content_type, (96, 64))


@pytest.mark.parametrize("output_format", [OutputFormat.JPEG, OutputFormat.WEBP])
def test_lossy_files_are_near_the_pixels(output_format: OutputFormat) -> None:
    ramp = np.repeat(np.linspace(0, 255, 96, dtype=np.uint8)[None, :, None], 64, axis=0)
    pixels = np.repeat(ramp, 3, axis=2)
    content = encode_image(pixels, PROVENANCE, output_format=output_format)
    difference = decode_with_pillow(content).astype(int) - pixels
    assert np.abs(difference).max() <= 6


@pytest.mark.parametrize("output_format", [OutputFormat.JPEG, OutputFormat.WEBP])
def test_output_compression_trades_bytes_for_quality(output_format: OutputFormat) -> None:
    sizes = [
        len(
            encode_image(
                draw_pixels(), PROVENANCE, output_format=output_format, output_compression=quality
            )
        )
        for quality in (0, 30, 60, 90, 100)
    ]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("output_format", OutputFormat)
@pytest.mark.parametrize("output_compression", [-1, 101])
def test_output_compression_is_a_percentage(
    output_format: OutputFormat, output_compression: int
) -> None:
    with pytest.raises(InvalidRequestError, match=r"output_compression must be in \[0, 100\]"):
        check_output_compression(output_format, output_compression)


def test_png_refuses_to_lose_quality() -> None:
    with pytest.raises(InvalidRequestError, match="must be 100 for png, which is lossless, got 50"):
        encode_image(draw_pixels(), PROVENANCE, output_compression=50)


def test_a_png_may_be_asked_for_at_openais_default_compression() -> None:
    content = encode_image(draw_pixels(), PROVENANCE, output_compression=100)
    np.testing.assert_array_equal(decode_with_pillow(content), draw_pixels())


def test_tensors_and_strided_arrays_give_the_same_file() -> None:
    pixels = draw_pixels()
    planes = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    expected = encode_image(pixels, PROVENANCE)
    assert encode_image(planes.permute(1, 2, 0), PROVENANCE) == expected


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (torch.zeros(64, 96, 3), "must be uint8, got float32"),
        (np.zeros((64, 96, 3), np.int16), "must be uint8, got int16"),
        (torch.zeros(64, 96, dtype=torch.uint8), r"must be \[H, W, 3\], got \[64, 96\]"),
        (torch.zeros(3, 64, 96, dtype=torch.uint8), r"must be \[H, W, 3\]"),
        (torch.zeros(64, 96, 4, dtype=torch.uint8), r"must be \[H, W, 3\]"),
        (torch.zeros(0, 96, 3, dtype=torch.uint8), r"must be \[H, W, 3\]"),
        (torch.zeros(64, 96, 3, dtype=torch.uint8, device="meta"), "must be on the CPU, got meta"),
        (torch.zeros(96, 64, 3, dtype=torch.uint8), "must be of size 96x64, got 64x96"),
    ],
)
def test_other_pixels_are_refused(pixels: torch.Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        encode_image(pixels, PROVENANCE)


@pytest.mark.parametrize("model", ["", "two\nlines", "nul\0"])
def test_provenance_is_printable(model: str) -> None:
    with pytest.raises(ValueError, match="model must be printable and not empty"):
        replace(PROVENANCE, model=model)


def test_a_file_without_provenance_is_refused() -> None:
    file = BytesIO()
    Image.fromarray(draw_pixels()).save(file, "JPEG")
    with pytest.raises(ValueError, match="must hold its provenance"):
        read_provenance(file.getvalue())


def test_a_png_without_provenance_is_refused() -> None:
    with pytest.raises(ValueError, match="provenance must have software, request-id"):
        read_provenance(encode_png(draw_pixels(), {}))


def test_content_that_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a PNG, JPEG or WebP file"):
        read_provenance(b"no image")
