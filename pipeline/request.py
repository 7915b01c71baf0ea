"""What a stage is asked for and what it answers: frozen data that may cross a process.

Sides of a request are image pixels; a latent pixel is 8 of them, a patch 2 latent pixels.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from torch import Tensor

from pipeline.errors import InvalidRequestError
from pipeline.tensor_pickling import PicklesTensors

LATENT_SCALE: Final = 8
"""Image pixels on the side of a latent pixel (`AutoencoderKL` with four levels)."""

PATCH_SIZE: Final = 2
"""Latent pixels on the side of a patch (`ZImageTransformer2DModel.all_patch_size`)."""

SIZE_MULTIPLE: Final = LATENT_SCALE * PATCH_SIZE

MAX_SEED: Final = 2**63 - 1
MAX_STEPS: Final = 50


class RenderPath(StrEnum):
    """How an image is rendered."""

    FULL_IMAGE = "full_image"
    TILED = "tiled"


class Priority(StrEnum):
    """Whose turn comes first in a step loop."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True)
class ImageSize:
    """Height and width in image pixels.

    Raises:
        InvalidRequestError: If a side is not a positive multiple of 16.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        for name, pixels in (("height", self.height), ("width", self.width)):
            if pixels <= 0 or pixels % SIZE_MULTIPLE:
                raise InvalidRequestError(
                    f"{name} must be positive and divide by {SIZE_MULTIPLE}, got {pixels}"
                )

    @property
    def latent_height(self) -> int:
        """Rows of latent pixels."""
        return self.height // LATENT_SCALE

    @property
    def latent_width(self) -> int:
        """Columns of latent pixels."""
        return self.width // LATENT_SCALE

    @property
    def num_image_tokens(self) -> int:
        """Patches, before the model pads them to a multiple of 32."""
        return (self.height // SIZE_MULTIPLE) * (self.width // SIZE_MULTIPLE)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class PromptEncoding(PicklesTensors):
    """A prompt as the transformer reads it."""

    prompt_embeds: Tensor
    """[tokens, dim], padding removed."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the templated prompt."""
        return int(self.prompt_embeds.shape[0])


@dataclass(frozen=True)
class DenoiseRequest:
    """One image asked of a denoiser.

    Raises:
        InvalidRequestError: If the seed or the number of steps is out of range.
    """

    id: str
    encoding: PromptEncoding
    size: ImageSize
    seed: int
    num_inference_steps: int
    priority: Priority = Priority.INTERACTIVE
    timeout_s: float | None = None
    """Seconds left until the picture is of no use; None is no deadline."""
    num_previews: int = 0
    """How many previews to make on the way, at evenly spaced steps."""
    tells_every_step: bool = True
    """Whether who follows the steps is told of those without a preview too."""

    @property
    def is_followed(self) -> bool:
        """Whether any step is told of."""
        return self.tells_every_step or self.num_previews > 0

    def tells(self, event: "StepEvent") -> bool:
        """Whether who follows the steps is told of this one."""
        return self.tells_every_step or event.preview is not None

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidRequestError(f"seed must be in [0, 2^63 - 1], got {self.seed}")
        if not 1 <= self.num_inference_steps <= MAX_STEPS:
            raise InvalidRequestError(
                f"num_inference_steps must be in [1, {MAX_STEPS}], got {self.num_inference_steps}"
            )


@dataclass(frozen=True)
class StepEvent:
    """A step of one request is done."""

    step: int
    """Steps done, from 1."""
    num_inference_steps: int
    sigma: float
    """The noise level that is left."""
    preview: Tensor | None = field(default=None, compare=False)
    """[3, H/8, W/8] uint8 on the CPU, a cheap picture of the predicted x0."""


@dataclass(frozen=True)
class DenoiseResult(PicklesTensors):
    """What the denoiser hands over, last."""

    latents: Tensor = field(compare=False)
    """[1, 16, H/8, W/8] float32 on the CPU."""
    queue_s: float
    """Seconds between arrival and the first step."""
    run_s: float
    """Seconds between the first step and the last."""
