"""What a forward of the transformer costs, from its dimensions alone.

A cost unit is the forward of a 512x512 picture with 64 prompt tokens through the same transformer,
so units compare sizes, and a replica's rate (units a second) compares machines.
"""

from dataclasses import dataclass
from typing import Any, Final, Self

SEQUENCE_MULTIPLE: Final = 32
"""The transformer pads image and caption to this many tokens (`SEQ_MULTI_OF` of diffusers)."""

_UNIT_IMAGE_TOKENS: Final = 1024
_UNIT_CAPTION_TOKENS: Final = 64


def pad_tokens(num_tokens: int) -> int:
    """Return how many tokens the model makes of `num_tokens`, its learned pads counted."""
    return -(-num_tokens // SEQUENCE_MULTIPLE) * SEQUENCE_MULTIPLE


@dataclass(frozen=True)
class ForwardCost:
    """Prices forwards of one transformer."""

    dim: int
    num_layers: int
    num_refiner_layers: int

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Read the dimensions from a `ZImageTransformer2DModel`'s configuration."""
        return cls(config.dim, config.n_layers, config.n_refiner_layers)

    def flops(self, num_image_tokens: int, num_caption_tokens: int) -> float:
        """Count the floating-point operations of one forward."""
        image = pad_tokens(num_image_tokens)
        joint = image + pad_tokens(num_caption_tokens)
        return self.num_refiner_layers * self._layer(image) + self.num_layers * self._layer(joint)

    def units(self, num_image_tokens: int, num_caption_tokens: int) -> float:
        """Price one forward in cost units."""
        unit = self.flops(_UNIT_IMAGE_TOKENS, _UNIT_CAPTION_TOKENS)
        return self.flops(num_image_tokens, num_caption_tokens) / unit

    def _layer(self, tokens: int) -> float:
        # Four projections and three feed-forward matrices a token; scores and their sums a pair.
        hidden_dim = int(self.dim / 3 * 8)
        linear = 2 * tokens * (4 * self.dim**2 + 3 * self.dim * hidden_dim)
        return linear + 4 * tokens**2 * self.dim
