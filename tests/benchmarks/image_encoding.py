"""Time and size of image encoders at 1024x1024, on one core; `pipeline jpeg` takes all there are.

    python tests/benchmarks/image_encoding.py [--photo FILE]... [--repeats N]

Encoders that are not installed are named at the end (`pip install fpng imagecodecs zlib-ng`).
"""

import argparse
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import cv2
import numpy as np
from PIL import Image

from pipeline import png
from pipeline.image_file import OutputFormat, encode_image
from pipeline.pixels import Pixels
from pipeline.provenance import ImageProvenance
from pipeline.request import ImageSize, RenderPath

SIDE: Final = 1024

PROVENANCE: Final = ImageProvenance(
    software="zimage-serve",
    request_id="benchmark",
    model="none",
    model_revision="none",
    seed=0,
    size=ImageSize(height=SIDE, width=SIDE),
    num_inference_steps=8,
    path=RenderPath.FULL_IMAGE,
    fingerprint="none",
)

Encode = Callable[[Pixels], bytes]


@dataclass(frozen=True)
class Encoder:
    """One way to make a file; `lossless` ones are checked to the pixel."""

    name: str
    encode: Encode
    lossless: bool = True


def draw_flat() -> Pixels:
    """A red circle on a blue background."""
    pixels = np.full((SIDE, SIDE, 3), (30, 60, 200), np.uint8)
    y, x = np.mgrid[0:SIDE, 0:SIDE] - SIDE // 2
    pixels[y**2 + x**2 < (SIDE // 3) ** 2] = (220, 20, 20)
    return pixels


def draw_natural() -> Pixels:
    """Smooth gradients, texture whose power falls with frequency as a photograph's, and grain."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(size=(SIDE, SIDE))) / frequency**1.5
    texture = np.fft.irfft2(spectrum)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    ramps = np.stack([140 + 60 * np.sin(4 * x), 120 + 50 * np.cos(3 * y), 90 + 70 * x * y], -1)
    grain = rng.normal(scale=1.5, size=(SIDE, SIDE, 3))
    image = ramps + 25 * (texture / texture.std())[..., None] + grain
    natural: Pixels = np.clip(image, 0, 255).astype(np.uint8)
    return natural


def draw_noise() -> Pixels:
    """Nothing to compress: the worst case."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def load_photo(path: Path) -> Pixels:
    """Read a photograph, cropped and scaled to a square."""
    with Image.open(path) as image:
        side = min(image.size)
        square = image.convert("RGB").crop((0, 0, side, side))
        return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def by_pipeline(output_format: OutputFormat) -> Encode:
    """The encoder that the service uses."""
    return lambda pixels: encode_image(pixels, PROVENANCE, output_format=output_format)


def by_pillow(file_format: str, **options: object) -> Encode:
    """Pillow with options of its `save`."""

    def encode(pixels: Pixels) -> bytes:
        file = BytesIO()
        Image.fromarray(pixels).save(file, file_format, **options)
        return file.getvalue()

    return encode


def by_opencv(*parameters: int) -> Encode:
    """OpenCV, which wants its channels the other way round."""

    def encode(pixels: Pixels) -> bytes:
        encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), parameters)[1]
        return bytes(encoded.tobytes())

    return encode


def by_filter(compress: Callable[[bytes], bytes]) -> Encode:
    """The service's row filter with another compressor."""

    def encode(pixels: Pixels) -> bytes:
        height, width, _ = pixels.shape
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        body = compress(png._filter_rows(pixels).tobytes())
        chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
        return png.SIGNATURE + b"".join(png._chunk(kind, content) for kind, content in chunks)

    return encode


def by_zlib(module: Any, strategy: int) -> Callable[[bytes], bytes]:
    """A compressor of `zlib`, or of a module with its interface, at level 1."""

    def compress(content: bytes) -> bytes:
        stream = module.compressobj(1, zlib.DEFLATED, 15, 9, strategy)
        return bytes(stream.compress(content) + stream.flush())

    return compress


def list_encoders() -> list[Encoder]:
    """Everything that comes with the project or with the standard library."""
    return [
        Encoder("pipeline png", by_pipeline(OutputFormat.PNG)),
        Encoder("pillow png, default", by_pillow("PNG")),
        Encoder("pillow png, level 1", by_pillow("PNG", compress_level=1)),
        Encoder("pillow png, run lengths", by_pillow("PNG", compress_level=1, compress_type=3)),
        Encoder("opencv png, default", by_opencv()),
        Encoder("opencv png, huffman", by_opencv(cv2.IMWRITE_PNG_STRATEGY, 2)),
        Encoder("average, zlib level 1", by_filter(by_zlib(zlib, zlib.Z_DEFAULT_STRATEGY))),
        Encoder("average, zlib run lengths", by_filter(by_zlib(zlib, zlib.Z_RLE))),
        Encoder("pipeline jpeg", by_pipeline(OutputFormat.JPEG), lossless=False),
        Encoder("pipeline webp", by_pipeline(OutputFormat.WEBP), lossless=False),
        Encoder("pillow webp, method 4", by_pillow("WEBP", quality=95), lossless=False),
    ]


def import_or_none(name: str) -> Any:
    """Import a module that is not among the project's dependencies."""
    try:
        return import_module(name)
    except ImportError:
        return None


def list_optional_encoders() -> tuple[list[Encoder], list[str]]:
    """Candidates from other packages, and the packages that are not installed."""
    fpng, codecs = import_or_none("fpng"), import_or_none("imagecodecs")
    zlib_ng = import_or_none("zlib_ng.zlib_ng")
    encoders: list[Encoder] = []
    if fpng:
        encoders.append(Encoder("fpng", lambda pixels: bytes(fpng.from_ndarray(pixels))))
    if codecs:
        encoders.append(
            Encoder("imagecodecs spng, level 1", lambda p: bytes(codecs.spng_encode(p, level=1)))
        )
    if zlib_ng:
        encoders.append(Encoder("average, zlib-ng huffman", by_filter(by_zlib(zlib_ng, 2))))
        encoders.append(Encoder("average, zlib-ng run lengths", by_filter(by_zlib(zlib_ng, 3))))
    found = {"fpng": fpng, "imagecodecs": codecs, "zlib-ng": zlib_ng}
    return encoders, [name for name, module in found.items() if module is None]


def measure(encoder: Encoder, pixels: Pixels, repeats: int) -> str:
    """Return a cell: median, quartiles in ms, and KiB."""
    content = encoder.encode(pixels)
    if encoder.lossless:
        with Image.open(BytesIO(content)) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        encoder.encode(pixels)
        times.append(1000 * (time.perf_counter() - start))
    low, _, high = quantiles(times, n=4)
    return f"{median(times):6.1f} ({low:.1f}-{high:.1f}) {len(content) // 1024:5d}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path, action="append", default=[])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    images = {path.stem[:12]: load_photo(path) for path in arguments.photo}
    images |= {"natural": draw_natural(), "flat": draw_flat(), "noise": draw_noise()}
    encoders, missing = list_optional_encoders()
    print(f"{SIDE}x{SIDE}: median ms (quartiles) KiB")
    print(f"{'':30}" + "".join(f"{name:>28}" for name in images))
    for encoder in [*list_encoders(), *encoders]:
        cells = [measure(encoder, pixels, arguments.repeats) for pixels in images.values()]
        print(f"{encoder.name:30}" + "".join(f"{cell:>28}" for cell in cells), flush=True)
    if missing:
        print(f"not installed: {', '.join(missing)}")


if __name__ == "__main__":
    main()
