"""A JPEG writer that uses several cores for one picture.

Pillow encodes strips of it, which are joined by restart markers (ITU-T T.81, B.2.4.4 and E.1.4):
each strip starts its predictions anew, as a file of its own does. A file's bytes depend on its
pixels alone, not on the number of cores.
"""

import os
import struct
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import IO, Final

import numpy as np
from PIL import Image

from pipeline.pixels import Pixels

_BLOCK: Final = 8
"""Rows and columns of what is coded together; without subsampling all colours have the same."""
_STRIP_PIXELS: Final = 256 * 256
"""A smaller strip would gain less than it costs to begin one."""
_MAX_STRIPS: Final = 8
_MAX_SIDE: Final = 65_500
_MAX_INTERVAL: Final = 65_535
"""Blocks between two restarts: it is written in 16 bits."""
_NUM_RESTARTS: Final = 8
"""Restart markers are numbered 0 to 7, over and over."""

_START_OF_FRAME: Final = 0xC0
_RESTART: Final = 0xD0
_START_OF_SCAN: Final = 0xDA
_RESTART_INTERVAL: Final = 0xDD
"""Second bytes of markers."""
_END_OF_IMAGE: Final = b"\xff\xd9"


def encode_jpeg(
    pixels: Pixels, *, quality: int, exif: Image.Exif, num_threads: int | None = None
) -> bytes:
    """Encode [H, W, 3] uint8 pixels on so many cores, on all that the process may use if None.

    Without chroma subsampling: prompts ask for saturated colours with hard edges.

    Raises:
        ValueError: If a side has more than 65,500 pixels, which is libjpeg's limit.
    """
    height, width, _ = pixels.shape
    if max(height, width) > _MAX_SIDE:
        raise ValueError(f"sides must have at most {_MAX_SIDE} pixels, got {width}x{height}")
    rows = choose_strip_rows(height, width)
    strips = [pixels[top : top + rows] for top in range(0, height, rows)]
    if len(strips) == 1:
        return _encode_strip(pixels, quality, exif)
    num_threads = min(len(strips), num_threads or _count_cores())

    def encode_every(first: int) -> list[bytes]:
        # Of all headers the first strip's is kept.
        return [
            _encode_strip(strips[index], quality, None if index else exif)
            for index in range(first, len(strips), num_threads)
        ]

    others = [_pool().submit(encode_every, first) for first in range(1, num_threads)]
    # A thread that waits takes longer to begin than this one.
    parts = [encode_every(0), *(each.result() for each in others)]
    files = [parts[index % num_threads][index // num_threads] for index in range(len(strips))]
    return _join(files, height, interval=_count_blocks(rows) * _count_blocks(width))


def choose_strip_rows(height: int, width: int) -> int:
    """Return the rows of each strip but the last, whole blocks; all of them where one will do."""
    count = min(_MAX_STRIPS, height * width // _STRIP_PIXELS)
    if count < 2:
        return height
    most = _MAX_INTERVAL // _count_blocks(width)
    return _BLOCK * min(-(-_count_blocks(height) // count), most)


def _count_blocks(side: int) -> int:
    return -(-side // _BLOCK)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MAX_STRIPS - 1, thread_name_prefix="jpeg")


if hasattr(os, "register_at_fork"):
    # Threads do not come along.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _encode_strip(pixels: Pixels, quality: int, exif: Image.Exif | None) -> bytes:
    with _open_unnamed() as file:
        _share(pixels).save(file, "JPEG", quality=quality, subsampling="4:4:4", exif=exif or b"")
        file.seek(0)
        return file.read()


def _share(pixels: Pixels) -> Image.Image:
    """Return a picture over memory of four bytes a pixel, as Pillow's own is.

    Pillow fills that of its own while it holds up all other threads; NumPy does not.
    """
    height, width, channels = pixels.shape
    padded = np.empty((height, width, channels + 1), np.uint8)
    # One channel at a time is six times as fast as three at once.
    for channel in range(channels):
        padded[..., channel] = pixels[..., channel]
    return Image.frombuffer("RGBX", (width, height), padded, "raw", "RGBX", 0, 1)


def _open_unnamed() -> IO[bytes]:
    """Open a file that the system knows by its number: Pillow lets other threads run for those."""
    if hasattr(os, "memfd_create"):
        # A sandbox may forbid it.
        with suppress(OSError):
            return open(os.memfd_create("jpeg"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _join(files: Sequence[bytes], height: int, *, interval: int) -> bytes:
    """Make one file of strips of equal width and quality, all but the last of `interval` blocks."""
    first, *others = map(_Strip.parse, files)
    header = bytearray(first.file[: first.scan_header])
    # The frame's height comes after its marker, length and precision.
    struct.pack_into(">H", header, first.frame + 5, height)
    header += struct.pack(">BBHH", 0xFF, _RESTART_INTERVAL, 4, interval)
    parts: list[bytes | bytearray | memoryview] = [
        header,
        first.file[first.scan_header : first.scan],
        first.coded,
    ]
    for index, strip in enumerate(others):
        parts += [bytes((0xFF, _RESTART + index % _NUM_RESTARTS)), strip.coded]
    return b"".join([*parts, _END_OF_IMAGE])


@dataclass(frozen=True)
class _Strip:
    """A file of one scan, and where its parts begin."""

    file: memoryview
    frame: int
    scan_header: int
    scan: int

    @property
    def coded(self) -> memoryview:
        """The scan without its header."""
        return self.file[self.scan : -len(_END_OF_IMAGE)]

    @classmethod
    def parse(cls, file: bytes) -> "_Strip":
        """Walk the segments up to the scan's header."""
        start, starts = 2, dict[int, int]()
        while _START_OF_SCAN not in starts:
            _, marker, length = struct.unpack_from(">BBH", file, start)
            starts[marker] = start
            start += 2 + length
        return cls(memoryview(file), starts[_START_OF_FRAME], starts[_START_OF_SCAN], start)
