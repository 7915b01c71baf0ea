"""The stages as the router sees them, wherever they run, and what passes between."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pipeline.errors import InvalidRequestError
from pipeline.image_file import OutputFormat
from pipeline.provenance import ImageProvenance
from pipeline.request import DenoiseRequest, DenoiseResult, PromptEncoding, StepEvent
from pipeline.tensor_pickling import PicklesTensors

StepListener = Callable[[StepEvent], Awaitable[None]]


@dataclass(frozen=True)
class Encoded:
    """A prompt as the transformer reads it, and the text encoder's own time."""

    encoding: PromptEncoding
    run_s: float


@dataclass(frozen=True)
class Refusal:
    """Why a prompt is not encoded: returned, since Serve logs whatever a replica raises."""

    message: str


@dataclass(frozen=True)
class Denoised:
    """Latents, and where they come from."""

    result: DenoiseResult
    fingerprint: str
    """Accelerator, precision, path and build of the denoiser."""
    replica: str
    share_s: float = 0.0
    """Seconds of the device, the shared part of batched forwards apportioned by cost."""
    peak_memory_bytes: int | None = None
    """Most that a forward of it took on a GPU, with all that shared it."""


@dataclass(frozen=True)
class TileVelocity(PicklesTensors):
    """What one replica predicted of one tile."""

    velocity: Tensor
    """[1, 16, h, w] float32."""
    fingerprint: str
    replica: str
    share_s: float = 0.0
    """See `Denoised`."""
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class FileOrder:
    """How pixels become a file."""

    output_format: OutputFormat
    output_compression: int | None
    provenance: ImageProvenance


@dataclass(frozen=True)
class DecodeRequest(PicklesTensors):
    """What a VAE decoder is asked for over a handle."""

    latents: Tensor
    order: FileOrder


@dataclass(frozen=True)
class ImageFile:
    """A finished picture."""

    content: bytes
    content_type: str
    extension: str
    fingerprint: str
    """That of the latents, and how they were decoded."""
    decode_s: float
    """Seconds of the VAE."""
    file_s: float
    """Seconds of encoding the file."""
    peak_memory_bytes: int | None = None


class Stages(Protocol):
    """Text encoder, denoiser and VAE decoder, in this process or behind handles."""

    async def encode(self, prompt: str) -> Encoded:
        """Encode one prompt.

        Raises:
            InvalidRequestError: If the prompt has too many tokens.
        """
        ...

    def denoise(
        self, pool: str, request: DenoiseRequest, *, yields_steps: bool = False
    ) -> AsyncGenerator[StepEvent | Denoised, None]:
        """Yield a `StepEvent` a step, if asked to, and the latents at the end.

        Closing the iterator lets the request go at the next step.
        """
        ...

    async def decode(self, latents: Tensor, order: FileOrder) -> ImageFile:
        """Decode latents and encode the file."""
        ...


def take_encoded(answer: Encoded | Refusal) -> Encoded:
    """Return what a text encoder answered.

    Raises:
        InvalidRequestError: If it refused the prompt.
    """
    if isinstance(answer, Refusal):
        raise InvalidRequestError(answer.message)
    return answer


async def take_latents(
    events: AsyncGenerator[StepEvent | Denoised, None], on_step: StepListener | None = None
) -> Denoised:
    """Return what a denoiser ends with; `on_step` is told what comes before."""
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, Denoised):
                return event
            if on_step is not None:
                await on_step(event)
    raise RuntimeError("a denoiser must end with latents, got only steps")
