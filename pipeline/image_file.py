"""Pixels to a file and its provenance in it: PNG, JPEG or WebP.

PNG holds the provenance as text chunks, JPEG and WebP as EXIF: `Software`, and all facts as JSON
in `UserComment`.
"""

import json
from enum import StrEnum
from io import BytesIO
from typing import Final

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import IFD, Base
from torch import Tensor

from pipeline.errors import InvalidRequestError
from pipeline.jpeg import encode_jpeg
from pipeline.pixels import Pixels, to_pixels
from pipeline.png import encode_png
from pipeline.provenance import ImageProvenance

LOSSLESS: Final = 100

DEFAULT_QUALITY: Final = 95
"""Of JPEG and WebP. The step from 95 to 100 doubles the file for differences nobody sees."""

_USER_COMMENT_ASCII: Final = b"ASCII\0\0\0"
"""EXIF 2.3, 4.6.5: a comment starts with its character code."""


class OutputFormat(StrEnum):
    """The file formats a picture is offered in."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def content_type(self) -> str:
        """The media type, as IANA registers it."""
        return f"image/{self.value}"

    @property
    def extension(self) -> str:
        """The end of a file's name, without the dot."""
        return "jpg" if self is OutputFormat.JPEG else self.value


def check_output_compression(output_format: OutputFormat, output_compression: int | None) -> None:
    """Refuse a compression that the format cannot have.

    OpenAI's `output_compression` is the quality of JPEG and WebP, 0 to 100, best last. PNG is
    lossless, so any other value than 100 is a misunderstanding.

    Raises:
        InvalidRequestError: If the value is out of range, or below 100 for PNG.
    """
    if output_compression is None:
        return
    if not 0 <= output_compression <= 100:
        raise InvalidRequestError(
            f"output_compression must be in [0, 100], got {output_compression}"
        )
    if output_format is OutputFormat.PNG and output_compression != LOSSLESS:
        raise InvalidRequestError(
            f"output_compression must be {LOSSLESS} for png, which is lossless, "
            f"got {output_compression}"
        )


def encode_image(
    pixels: Tensor | Pixels,
    provenance: ImageProvenance,
    *,
    output_format: OutputFormat = OutputFormat.PNG,
    output_compression: int | None = None,
    num_threads: int | None = None,
) -> bytes:
    """Encode [H, W, 3] uint8 pixels on the CPU; `output_compression` is 95 where it is None.

    A JPEG is encoded by `num_threads`, by as many as there are cores if None.

    Raises:
        InvalidRequestError: As `check_output_compression` does.
        ValueError: If the pixels are of another shape or type, or of another size than the
            provenance says.
    """
    check_output_compression(output_format, output_compression)
    array = to_pixels(pixels)
    size = provenance.size
    if array.shape[:2] != (size.height, size.width):
        raise ValueError(f"pixels must be of size {size}, got {array.shape[1]}x{array.shape[0]}")
    if output_format is OutputFormat.PNG:
        return encode_png(array, _to_png_text(provenance))
    quality = DEFAULT_QUALITY if output_compression is None else output_compression
    exif = _to_exif(provenance)
    if output_format is OutputFormat.JPEG:
        return encode_jpeg(array, quality=quality, exif=exif, num_threads=num_threads)
    file = BytesIO()
    # WebP's default method 4 takes three times as long for files of the same size.
    Image.fromarray(array).save(file, "WEBP", quality=quality, method=0, exif=exif)
    return file.getvalue()


def read_provenance(content: bytes) -> ImageProvenance:
    """Read the provenance out of a file that `encode_image` made.

    Raises:
        ValueError: If the content is no image, or holds no provenance.
    """
    try:
        with Image.open(BytesIO(content), formats=[each.value for each in OutputFormat]) as image:
            text = _read_text(image)
    except UnidentifiedImageError as error:
        raise ValueError("content must be a PNG, JPEG or WebP file") from error
    return ImageProvenance.from_text(text)


def _to_png_text(provenance: ImageProvenance) -> dict[str, str]:
    """Spell `Software` as PNG 1.2 (4.2.3) does; other keywords are the service's own."""
    text = provenance.to_text()
    return {"Software": text.pop("software"), **text}


def _to_exif(provenance: ImageProvenance) -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Software] = provenance.software
    comment = json.dumps(provenance.to_text()).encode("ascii")
    exif.get_ifd(IFD.Exif)[Base.UserComment] = _USER_COMMENT_ASCII + comment
    return exif


def _read_text(image: Image.Image) -> dict[str, str]:
    if image.format == "PNG":
        texts = ((str(name), text) for name, text in image.info.items() if isinstance(text, str))
        return {name.lower(): text for name, text in texts}
    comment = image.getexif().get_ifd(IFD.Exif).get(Base.UserComment, b"")
    if not isinstance(comment, bytes) or not comment.startswith(_USER_COMMENT_ASCII):
        raise ValueError("the file must hold its provenance in the EXIF user comment")
    text: dict[str, str] = json.loads(comment.removeprefix(_USER_COMMENT_ASCII))
    return text
