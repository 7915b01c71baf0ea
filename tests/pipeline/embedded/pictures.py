"""Scenes and their true pictures, as the renderer draws them."""

import random

import torch

from pipeline.embedded.scenes.layout import place
from pipeline.embedded.scenes.rendering import describe, render
from pipeline.embedded.scenes.sampling import sample_scene
from pipeline.embedded.scenes.scene import Scene


def draw_scenes(
    count: int, height: int, width: int, *, seed: int
) -> tuple[list[Scene], torch.Tensor]:
    """Return scenes and [count, 3, height, width] images in [-1, 1]."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    placements = [place(scene, height, width, rng) for scene in scenes]
    return scenes, render(describe(scenes, placements), height, width, torch.device("cpu"))
