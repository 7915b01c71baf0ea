"""Ties where things stand to the noise, so that caption and noise together tell one picture.

A caption leaves open where exactly things stand. Were that independent of the noise, the network
could only settle it bit by bit during the first steps, where eight are too few and shapes blur.
Instead each free choice of a layout, a uniform number, is the quantile of one normal number that
is read off the noise: its inner product with a checkerboard over one latent channel, a pattern
that pictures hardly contain. Noise drawn without a layout is normal as before.
"""

import random
from typing import Final

import torch
from torch import Tensor

NUM_CHOICES: Final = 8
"""At least as many as any layout makes; the n-th is told by the n-th latent channel."""

_MARGIN: Final = 1e-6
"""Keeps quantiles finite."""


class Choices(random.Random):
    """Answers `random()` with numbers that were chosen before, in turn."""

    def __init__(self, values: list[float]) -> None:
        super().__init__(0)
        self._values = iter(values)

    def random(self) -> float:
        """Return the next number; StopIteration if a layout asks for more than there are."""
        return next(self._values)


def couple(noise: Tensor, choices: Tensor) -> Tensor:
    """Return noise [B, 16, h, w] that tells the choices [B, NUM_CHOICES] of 0 to 1."""
    wanted = torch.special.ndtri(choices.clamp(_MARGIN, 1 - _MARGIN))
    pattern = checkerboard(noise.shape[2], noise.shape[3], noise.device)
    told = noise[:, :NUM_CHOICES]
    present = (told * pattern).sum(dim=(2, 3))
    told = told + (wanted - present)[:, :, None, None] * pattern
    return torch.cat([told, noise[:, NUM_CHOICES:]], dim=1)


def checkerboard(height: int, width: int, device: torch.device) -> Tensor:
    """Return [h, w] of alternating signs and length 1."""
    places = torch.arange(height, device=device)[:, None] + torch.arange(width, device=device)
    signs: Tensor = (1 - 2 * (places % 2)) / (height * width) ** 0.5
    return signs
