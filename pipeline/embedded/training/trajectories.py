"""Where training looks: noised pictures, and pictures half drawn by the network itself."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from pipeline.embedded.training.coupling import couple
from pipeline.schedule import Z_IMAGE_SHIFT, build_schedule

NUM_STEPS: Final = 8
_STEP_SHARES: Final = (0.20, 0.20, 0.16, 0.12, 0.10, 0.08, 0.07, 0.07)
"""How often each of the eight sigmas is drawn: what a picture shows is settled in the first."""

_MIN_SIGMA: Final = 0.03


def draw_sigmas(count: int, exact_share: float, device: torch.device) -> Tensor:
    """Draw [count] sigmas: those of the eight steps, or any, shifted as they are."""
    shares = torch.tensor(_STEP_SHARES, device=device)
    exact = _sigmas(device)[torch.multinomial(shares, count, replacement=True)]
    linear = torch.rand(count, device=device)
    between = Z_IMAGE_SHIFT * linear / (1 + (Z_IMAGE_SHIFT - 1) * linear)
    is_exact = torch.rand(count, device=device) < exact_share
    return torch.where(is_exact, exact, between.clamp(min=_MIN_SIGMA))


def noise_pictures(latents: Tensor, choices: Tensor, sigma: Tensor) -> Tensor:
    """Mix [B, 16, h, w] float32 with as much noise as `sigma` [B] says, coupled to the layout."""
    mix = sigma[:, None, None, None]
    return (1 - mix) * latents + mix * couple(torch.randn_like(latents), choices)


@dataclass
class Walk:
    """Pictures on their way from noise through the eight steps, each at a step of its own."""

    latents: Tensor
    """[B, 16, h, w], float32."""
    steps: Tensor
    """[B], 0 to 7."""

    @classmethod
    def begin(cls, latents: Tensor, choices: Tensor) -> "Walk":
        """Begin at any step, from noised pictures."""
        steps = torch.randint(NUM_STEPS, (len(latents),), device=latents.device)
        sigma = _sigmas(latents.device)[steps]
        return cls(noise_pictures(latents, choices, sigma), steps)

    @property
    def sigma(self) -> Tensor:
        """[B]."""
        return _sigmas(self.latents.device)[self.steps]

    def advance(self, predicted: Tensor, latents: Tensor, choices: Tensor) -> None:
        """Take the step that the network predicts; begin again from noise after the last."""
        sigmas = _sigmas(self.latents.device)
        stride = sigmas[self.steps] - sigmas[self.steps + 1]
        moved = self.latents + stride[:, None, None, None] * predicted.float()
        self.steps = (self.steps + 1) % NUM_STEPS
        is_new = (self.steps == 0)[:, None, None, None]
        self.latents = torch.where(is_new, couple(torch.randn_like(latents), choices), moved)


@cache
def _sigmas(device: torch.device) -> Tensor:
    """Return the nine sigmas of the schedule."""
    return torch.tensor(build_schedule(NUM_STEPS).sigmas, device=device)
