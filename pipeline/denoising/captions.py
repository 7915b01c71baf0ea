"""The caption path: what the transformer makes of a prompt, once a request."""

import hashlib
from dataclasses import dataclass

from torch import Tensor

from pipeline.errors import InvalidRequestError
from pipeline.tensor_pickling import view_bytes


@dataclass(frozen=True)
class CaptionKey:
    """What a caption state depends on, beside the weights."""

    digest: str
    """Of the prompt embeddings' shape, type and bytes."""
    adapter: str | None = None
    adapter_scale: float = 1.0


@dataclass(frozen=True, eq=False)
class CaptionState:
    """A caption after embedder and context refiner; the timestep does not enter it."""

    rows: Tensor
    """[padded tokens, dim] on the transformer's device."""
    num_tokens: int
    """Tokens of the prompt, padding not counted."""

    @property
    def num_rows(self) -> int:
        """Tokens, the model's own padding counted."""
        return int(self.rows.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes that the state holds on the device."""
        return self.rows.nbytes


def identify_caption(prompt_embeds: Tensor) -> CaptionKey:
    """Name a caption by its content, so that pictures of one prompt share its state."""
    header = f"{prompt_embeds.dtype}{tuple(prompt_embeds.shape)}".encode()
    # Recent processors have instructions for it, and are twice as fast with it as with others.
    digest = hashlib.sha256(header)
    digest.update(view_bytes(prompt_embeds.cpu()).data)
    return CaptionKey(digest.hexdigest())


def check_prompt_embeds(prompt_embeds: Tensor, *, dim: int, max_tokens: int) -> None:
    """Refuse what the caption path cannot read.

    Raises:
        InvalidRequestError: Naming the rule and the shape.
    """
    shape = tuple(prompt_embeds.shape)
    if len(shape) != 2 or shape[1] != dim or not 1 <= shape[0] <= max_tokens:
        raise InvalidRequestError(
            f"prompt_embeds must be [1 to {max_tokens} tokens, {dim}], got {list(shape)}"
        )
