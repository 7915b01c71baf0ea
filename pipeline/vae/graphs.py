"""Decodes recorded as CUDA graphs: of small pictures the host launches kernels too slowly.

All recordings share one pool of memory, so it is as large as the largest picture's needs; larger
pictures than `max_latents` are not recorded, since their kernels run longer than their launches.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

MAX_LATENTS: Final = 128 * 128
_MAX_GRAPHS: Final = 16


@dataclass(frozen=True, eq=False)
class _Recording:
    graph: Any
    latents: Tensor
    colours: Tensor


class GraphedNetwork:
    """Decodes the first picture of a size directly, records the second, and replays from then on.

    By the second, libraries have chosen and compiled their kernels.
    """

    def __init__(
        self, network: Callable[[Tensor], Tensor], *, max_latents: int = MAX_LATENTS
    ) -> None:
        self._network = network
        self._max_latents = max_latents
        self._met: set[torch.Size] = set()
        self._recordings: OrderedDict[torch.Size, _Recording] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, latents: Tensor) -> Tensor:
        """Return [1, 3, H, W]: it holds until the next call."""
        size = latents.shape
        if size[-2] * size[-1] > self._max_latents:
            return self._network(latents)
        if size not in self._met:
            self._met.add(size)
            return self._network(latents)
        if size not in self._recordings:
            self._recordings[size] = self._record(latents)
            while len(self._recordings) > _MAX_GRAPHS:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(size)
        recording = self._recordings[size]
        recording.latents.copy_(latents)
        recording.graph.replay()
        return recording.colours

    def _record(self, latents: Tensor) -> _Recording:
        static = latents.clone()
        graph = torch.cuda.CUDAGraph()
        # Another thread may use the device meanwhile: only this one's calls are recorded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            colours = self._network(static)
        return _Recording(graph, static, colours)
