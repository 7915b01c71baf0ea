"""Noise of a picture that finds the loop idle: drawn while its caption is encoded."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from pipeline.latents import draw_noise
from pipeline.request import ImageSize


class NoiseSource:
    """Draws in a thread of its own, one picture after another. Any thread may call it."""

    def __init__(self, device: torch.device) -> None:
        """Draw for a device: what is to be copied to a GPU is pinned."""
        self._pins = device.type == "cuda"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="noise")

    def begin(self, size: ImageSize, *, seed: int) -> Future[Tensor]:
        """Begin to draw [16, H/8, W/8], as `draw_noise` does, in host memory."""
        return self._thread.submit(self._draw, size, seed)

    def close(self) -> None:
        """Draw nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _draw(self, size: ImageSize, seed: int) -> Tensor:
        noise = draw_noise(size, seed=seed)[0]
        return noise.pin_memory() if self._pins else noise
