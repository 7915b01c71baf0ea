"""How much GPU memory a stage needs at its peak, for placement and for what a pool can draw.

Lines through what one H200 measured at 512, 1024 and 2048 px with random weights of the true size.
"""

from typing import Final

from cluster.accelerators import Precision

_MEGAPIXEL: Final = 1024 * 1024

TEXT_ENCODER_PEAK_GIB: Final = 7.8
"""7.6 of weights, and 512 tokens of activations."""

_TRANSFORMER_GIB: Final = {Precision.BF16: 11.8, Precision.FP8: 6.1, Precision.FP32: 23.6}
_DENOISER_GIB_PER_MEGAPIXEL: Final = 0.46
_VAE_GIB: Final = 0.2
_VAE_GIB_PER_MEGAPIXEL: Final = 2.4


def denoiser_peak_gib(num_pixels: int, precision: Precision, *, num_in_flight: int = 1) -> float:
    """Return the peak of a denoiser that steps `num_in_flight` forwards of so many pixels at once.

    `num_pixels` are those of the image on the full-image path, and of one tile on the tiled path.
    """
    activations = _DENOISER_GIB_PER_MEGAPIXEL * num_pixels / _MEGAPIXEL
    return _TRANSFORMER_GIB[precision] + num_in_flight * activations


def vae_decoder_peak_gib(num_pixels: int) -> float:
    """Return the peak of decoding one image (or, where decoding is tiled, one tile)."""
    return _VAE_GIB + _VAE_GIB_PER_MEGAPIXEL * num_pixels / _MEGAPIXEL


def max_denoiser_pixels(memory_gib: float, precision: Precision) -> int:
    """Return the largest forward, in image pixels, that fits; 0 if the weights alone do not."""
    room = memory_gib - _TRANSFORMER_GIB[precision]
    return max(0, int(room / _DENOISER_GIB_PER_MEGAPIXEL * _MEGAPIXEL))
