"""Noise of a picture that finds the loop idle: drawn while its caption is encoded."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from pipeline.device_errors import lacks_memory
from pipeline.latents import draw_noise
from pipeline.request import ImageSize


class NoiseAhead:
    """One picture's noise, which another thread may have drawn."""

    def __init__(self, size: ImageSize, seed: int, drawn: Future[Tensor]) -> None:
        self._size = size
        self._seed = seed
        self._drawn = drawn

    def take(self) -> Tensor:
        """Return [16, H/8, W/8] in host memory; drawn here rather than behind other pictures'."""
        if not self._drawn.cancel():
            try:
                return self._drawn.result()
            except Exception as exc:
                # Whoever asks again may have made room.
                if not lacks_memory(exc):
                    raise
        return draw_noise(self._size, seed=self._seed)[0]

    def drop(self) -> None:
        """Draw it no more if nobody has begun."""
        self._drawn.cancel()


class NoiseSource:
    """Draws in a thread of its own, one picture after another. Any thread may call it."""

    def __init__(self, device: torch.device) -> None:
        """Draw for a device: what is to be copied to a GPU is pinned.

        The thread has the priority of the one that calls this.
        """
        self._pins = device.type == "cuda"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="noise")
        self._thread.submit(lambda: None)

    def begin(self, size: ImageSize, *, seed: int) -> NoiseAhead:
        """Begin to draw, as `draw_noise` does."""
        return NoiseAhead(size, seed, self._thread.submit(self._draw, size, seed))

    def close(self) -> None:
        """Draw nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _draw(self, size: ImageSize, seed: int) -> Tensor:
        return draw_noise(size, seed=seed, pins=self._pins)[0]
