"""Scenes and their true pictures, as the renderer draws them."""

import random

import torch

from pipeline.embedded.scenes.layout import place
from pipeline.embedded.scenes.rendering import describe, render
from pipeline.embedded.scenes.sampling import sample_scene
from pipeline.embedded.scenes.scene import Scene
from pipeline.embedded.training.coupling import NUM_CHOICES, checkerboard


def draw_scenes(
    count: int, height: int, width: int, *, seed: int
) -> tuple[list[Scene], torch.Tensor]:
    """Return scenes and [count, 3, height, width] images in [-1, 1]."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    placements = [place(scene, height, width, rng) for scene in scenes]
    return scenes, render(describe(scenes, placements), height, width, torch.device("cpu"))


def read_choices(noise: torch.Tensor) -> torch.Tensor:
    """Read the layout's choices [B, NUM_CHOICES] off noise [B, 16, h, w]."""
    pattern = checkerboard(noise.shape[2], noise.shape[3], noise.device)
    told = (noise[:, :NUM_CHOICES] * pattern).sum(dim=(2, 3))
    quantiles: torch.Tensor = torch.special.ndtr(told)
    return quantiles
