"""Where training looks: noised pictures, those half drawn by the network itself, and restarts."""

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

_FIRST_RESTART: Final = 4
"""The step from whose sigma on, .75, a canvas may go on from a base pass."""

_EXACT_RESTARTS: Final = 0.7


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


def draw_restart_sigmas(count: int, device: torch.device) -> Tensor:
    """Draw [count] sigmas of a canvas that a base pass has begun: a step's own, or any below."""
    sigmas = _sigmas(device)
    exact = sigmas[torch.randint(_FIRST_RESTART, NUM_STEPS, (count,), device=device)]
    between = torch.rand(count, device=device) * sigmas[_FIRST_RESTART]
    is_exact = torch.rand(count, device=device) < _EXACT_RESTARTS
    return torch.where(is_exact, exact, between.clamp(min=_MIN_SIGMA))


def restart_pictures(latents: Tensor, coarse: Tensor, sigma: Tensor) -> Tensor:
    """Noise a picture that was drawn small and enlarged, as the tiled path restarts its canvas.

    The noise says nothing of the layout, which the picture shows by then. How far it has been
    sharpened since, from `coarse` towards `latents` [B, 16, h, w], is drawn for each picture.
    """
    sharpened = torch.rand(len(latents), device=latents.device)[:, None, None, None]
    mix = sigma[:, None, None, None]
    return (1 - mix) * torch.lerp(coarse, latents, sharpened) + mix * torch.randn_like(latents)


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
