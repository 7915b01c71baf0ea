"""The noise levels of a denoising run, and one Euler step between two of them.

Z-Image is a flow-matching model: `x_s = (1 - s) x0 + s noise`, and the transformer predicts the
velocity with its sign flipped (diffusers negates the output; so does `predict_velocity`).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

Z_IMAGE_SHIFT: Final = 3.0
"""`shift` of Z-Image-Turbo's `scheduler_config.json`."""


@dataclass(frozen=True)
class Schedule:
    """Sigmas from 1 to 0: `num_inference_steps` of them, and the final zero.

    The numbers are those of diffusers' `FlowMatchEulerDiscreteScheduler` with a static shift, to
    the bit: every operation is in float32 and in the same order.
    """

    sigmas: tuple[float, ...]

    @property
    def num_inference_steps(self) -> int:
        """Forwards of the transformer in a whole run."""
        return len(self.sigmas) - 1

    def model_time(self, step: int) -> float:
        """Return what the transformer is given at `step`: 1 - sigma, rounded as diffusers does."""
        timestep = np.float32(self.sigmas[step]) * np.float32(1000)
        return float((np.float32(1000) - timestep) / np.float32(1000))

    def advance(self, latents: Tensor, velocity: Tensor, step: int) -> Tensor:
        """Take the Euler step from `sigmas[step]` to `sigmas[step + 1]`; both are float32."""
        sigma = torch.tensor(self.sigmas[step], dtype=torch.float32)
        sigma_next = torch.tensor(self.sigmas[step + 1], dtype=torch.float32)
        return latents + float(sigma_next - sigma) * velocity


@lru_cache(maxsize=128)
def build_schedule(num_inference_steps: int, *, shift: float = Z_IMAGE_SHIFT) -> Schedule:
    """Build the schedule of `linspace(1, 1/n, n)`, shifted, with a final zero.

    The shift is `s' = shift s / (1 + (shift - 1) s)` (SD3 paper, arXiv 2403.03206, section 5.3.2).
    """
    linear = torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps).numpy()
    shifted = shift * linear / (1 + (shift - 1) * linear)
    return Schedule(sigmas=(*(float(sigma) for sigma in shifted), 0.0))
