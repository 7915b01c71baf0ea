"""What a picture costs, in units: one unit is one forward of a 512x512 image.

A forward over `n` tokens takes `linear * n + quadratic * n^2`: the linears and the attention. The
prompt's tokens are in the same sequence, and the model pads the image's to multiples of 32.
"""

from dataclasses import dataclass
from typing import Final

TOKEN_SIDE: Final = 16
"""Image pixels on the side of one token."""

TOKEN_MULTIPLE: Final = 32

UNIT_TOKENS: Final = (512 // TOKEN_SIDE) ** 2


@dataclass(frozen=True)
class ForwardCost:
    """The work of one forward of a transformer, in TFLOP."""

    linear_tflop: float
    """A token."""
    quadratic_tflop: float
    """A pair of tokens."""
    num_prompt_tokens: int = 64
    """A usual prompt, since the estimate is made before it is encoded."""

    def tflop(self, num_image_tokens: int) -> float:
        """Return the work of one forward."""
        num_padded = -(-num_image_tokens // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
        num_tokens = num_padded + self.num_prompt_tokens
        return self.linear_tflop * num_tokens + self.quadratic_tflop * num_tokens**2

    def units(self, num_image_tokens: int) -> float:
        """Return the work of one forward, in forwards of a 512x512 image."""
        return self.tflop(num_image_tokens) / self.tflop(UNIT_TOKENS)


Z_IMAGE: Final = ForwardCost(linear_tflop=0.0113286, quadratic_tflop=4.89216e-7)
"""Least squares over profiled forwards at 512 to 2048 px; all five within 0.2 %.

The quadratic term is that of 32 attention layers of width 3840, `4 * 32 * 3840`, within 0.5 %.
"""


def for_transformer(dim: int, num_attention_layers: int, num_parameters: int) -> ForwardCost:
    """Derive the cost of a transformer that nobody profiled, from its shape."""
    return ForwardCost(
        linear_tflop=2 * num_parameters / 1e12,
        quadratic_tflop=4 * dim * num_attention_layers / 1e12,
    )


def count_image_tokens(height: int, width: int) -> int:
    """Count the tokens of an image of so many pixels, both divisible by 16."""
    return (height // TOKEN_SIDE) * (width // TOKEN_SIDE)


def full_image_units(
    height: int,
    width: int,
    num_inference_steps: int,
    *,
    forwards_per_step: int = 1,
    forward: ForwardCost = Z_IMAGE,
) -> float:
    """Return the cost of a picture drawn whole.

    Args:
        height: Image pixels.
        width: Image pixels.
        num_inference_steps: Steps of the schedule.
        forwards_per_step: 2 where classifier-free guidance is on.
        forward: The model family's cost.
    """
    num_forwards = num_inference_steps * forwards_per_step
    return num_forwards * forward.units(count_image_tokens(height, width))
