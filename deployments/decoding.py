"""Latents to a finished file."""

import time
from dataclasses import replace

from torch import Tensor

from deployments.stages import FileOrder, ImageFile
from pipeline.image_file import encode_image
from pipeline.stages import VaeDecoder


def decode_to_file(
    vae_decoder: VaeDecoder, latents: Tensor, order: FileOrder, num_threads: int | None = None
) -> ImageFile:
    """Decode latents and encode the file by so many threads, with its provenance inside.

    The order's provenance says how the latents came about; how they were decoded is added.
    """
    started = time.monotonic()
    decoder = vae_decoder.fingerprint(order.provenance.size)
    fingerprint = f"{order.provenance.fingerprint}/decode-{decoder}"
    pixels = vae_decoder.decode(latents)
    decoded = time.monotonic()
    content = encode_image(
        pixels,
        replace(order.provenance, fingerprint=fingerprint),
        output_format=order.output_format,
        output_compression=order.output_compression,
        num_threads=num_threads,
    )
    return ImageFile(
        content=content,
        content_type=order.output_format.content_type,
        extension=order.output_format.extension,
        fingerprint=fingerprint,
        decode_s=decoded - started,
        file_s=time.monotonic() - decoded,
    )
