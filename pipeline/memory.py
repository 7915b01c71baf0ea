"""Predict a stage's peak of GPU memory, and which sizes a card holds. Pure: measures nothing.

Weights are a constant and activations grow with the tokens of the largest forward: attention is
linear in memory, and so is every convolution. `fit_peak_memory` takes the two numbers out of
measurements; `tests/benchmarks/tiled_gpu.py` makes them for a card.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import linear_regression
from typing import Final

from pipeline.acceleration.options import BlockKernels
from pipeline.errors import InvalidRequestError
from pipeline.request import SIZE_MULTIPLE, ImageSize
from pipeline.tiling import shrink_to_area

KIB_PER_GIB: Final = 1024 * 1024


@dataclass(frozen=True)
class PeakMemoryModel:
    """Peak as a constant and a slope over image tokens (patches of 16x16 image pixels).

    Raises:
        ValueError: If a number is not positive.
    """

    fixed_gib: float
    """Weights, and what a forward needs whatever its size."""
    kib_per_token: float

    def __post_init__(self) -> None:
        if self.fixed_gib <= 0 or self.kib_per_token <= 0:
            raise ValueError(f"fixed_gib and kib_per_token must be positive, got {self}")

    def peak_gib(self, num_image_tokens: int) -> float:
        """Predict the peak of a run whose largest forward has so many image tokens."""
        return self.fixed_gib + self.kib_per_token * num_image_tokens / KIB_PER_GIB

    def max_tokens(self, budget_gib: float) -> int:
        """Return the image tokens that fit in a budget; none if the weights do not."""
        room_kib = (budget_gib - self.fixed_gib) * KIB_PER_GIB
        return max(0, int(room_kib / self.kib_per_token))


def fit_peak_memory(measured_gib: Mapping[int, float]) -> PeakMemoryModel:
    """Fit the model to peaks in GiB by image tokens, by least squares.

    Raises:
        ValueError: If there are fewer than two sizes, or the peak does not grow with them.
    """
    if len(measured_gib) < 2:
        raise ValueError(f"peaks must be measured at two sizes at least, got {len(measured_gib)}")
    slope, intercept = linear_regression(list(measured_gib), list(measured_gib.values()))
    return PeakMemoryModel(intercept, slope * KIB_PER_GIB)


def largest_size_that_fits(
    size: ImageSize, model: PeakMemoryModel, *, budget_gib: float
) -> ImageSize | None:
    """Return `size`, or the largest of its aspect that fits; None if none does."""
    max_pixels = model.max_tokens(budget_gib) * SIZE_MULTIPLE**2
    return shrink_to_area(size, max_pixels=max_pixels)


def require_fit(size: ImageSize, model: PeakMemoryModel, *, budget_gib: float) -> None:
    """Refuse a size that the card does not hold.

    Raises:
        InvalidRequestError: With the largest size of the same aspect that would fit.
    """
    peak_gib = model.peak_gib(size.num_image_tokens)
    if peak_gib <= budget_gib:
        return
    largest = largest_size_that_fits(size, model, budget_gib=budget_gib)
    raise InvalidRequestError(
        f"size must fit in {budget_gib:.2f} GiB, the largest of this shape is {largest}, "
        f"got {size} which takes {peak_gib:.2f} GiB"
    )


class DecodeMode(StrEnum):
    """How latents become pixels."""

    AUTO = "auto"
    """In one piece where that fits the memory, in tiles above."""
    FULL_IMAGE = "full_image"
    TILED = "tiled"


def choose_decode(
    size: ImageSize,
    mode: DecodeMode,
    *,
    budget_gib: float | None,
    kernels: BlockKernels = BlockKernels.MODULES,
) -> DecodeMode:
    """Choose how a picture of the size is decoded; no budget is no bound.

    Raises:
        InvalidRequestError: With the largest size that would fit, if this one does not.
    """
    if budget_gib is None:
        return DecodeMode.FULL_IMAGE if mode is DecodeMode.AUTO else mode
    if mode is DecodeMode.AUTO:
        is_whole = VAE_WHOLE[kernels].peak_gib(size.num_image_tokens) <= budget_gib
        mode = DecodeMode.FULL_IMAGE if is_whole else DecodeMode.TILED
    (model,) = _models_of(mode, kernels)
    require_fit(size, model, budget_gib=budget_gib)
    return mode


def max_decode_tokens(
    mode: DecodeMode, *, budget_gib: float, kernels: BlockKernels = BlockKernels.MODULES
) -> int:
    """Return the image tokens of the largest picture that can be decoded."""
    return max(model.max_tokens(budget_gib) for model in _models_of(mode, kernels))


def _models_of(mode: DecodeMode, kernels: BlockKernels) -> list[PeakMemoryModel]:
    models = {DecodeMode.FULL_IMAGE: VAE_WHOLE[kernels], DecodeMode.TILED: VAE_TILED}
    return list(models.values()) if mode is DecodeMode.AUTO else [models[mode]]


def scale_denoiser(*, dim: int, num_layers: int, model: PeakMemoryModel) -> PeakMemoryModel:
    """Scale a model of Z-Image-Turbo's memory to a transformer of another shape.

    Weights grow with the square of `dim` and with the layers, activations with `dim`.
    """
    weights = num_layers * dim**2 / (_TURBO_LAYERS * _TURBO_DIM**2)
    return PeakMemoryModel(model.fixed_gib * weights, model.kib_per_token * dim / _TURBO_DIM)


_TURBO_DIM: Final = 3840
_TURBO_LAYERS: Final = 34
"""With the refiners of image and caption."""

DENOISER_BF16: Final = fit_peak_memory({1024: 11.89, 4096: 12.24, 16384: 13.64})
"""Z-Image-Turbo's transformer, eager, measured on an H200 at 512, 1024 and 2048 square."""

DENOISER_FP8: Final = fit_peak_memory({1024: 6.2, 16384: 7.3})
"""The same with fp8 linears, at 512 and 2048 square."""

VAE_FULL: Final = fit_peak_memory({1024: 0.8, 4096: 2.6, 16384: 9.7})
"""The untiled VAE decoder in bfloat16, at 512, 1024 and 2048 square."""

VAE_FUSED: Final = fit_peak_memory({1024: 0.58, 4096: 1.51, 16384: 5.27})
"""The same with fused kernels, which hold a second copy of the weights."""

VAE_WHOLE: Final = {BlockKernels.MODULES: VAE_FULL, BlockKernels.FUSED: VAE_FUSED}

VAE_TILED: Final = PeakMemoryModel(fixed_gib=1.0, kib_per_token=40.0)
"""In tiles of 64 latents: weights, one tile on its way, and 10 KiB a latent of tiles that wait."""
