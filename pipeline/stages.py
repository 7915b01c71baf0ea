"""The three stages of a picture, as the rest of the service knows them."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from pipeline.request import (
    DenoiseRequest,
    DenoiseResult,
    ImageSize,
    PromptEncoding,
    StepEvent,
)


class TextEncoder(Protocol):
    """Turns a prompt into what the transformer reads."""

    def encode(self, prompt: str) -> PromptEncoding:
        """Encode one prompt.

        Raises:
            InvalidRequestError: If the templated prompt has more tokens than the model reads.
        """
        ...


class Denoiser(Protocol):
    """Turns noise into latents."""

    def denoise(
        self, request: DenoiseRequest, on_step: Callable[[StepEvent], None] | None = None
    ) -> DenoiseResult:
        """Draw one image's latents, telling `on_step` after each step."""
        ...


class VaeDecoder(Protocol):
    """Turns latents into pixels."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode [1, 16, H/8, W/8] float32 latents into [H, W, 3] uint8 pixels on the CPU."""
        ...

    def fingerprint(self, size: ImageSize) -> str:
        """Name everything beside the latents that decides the pixels of a picture of the size."""
        ...
