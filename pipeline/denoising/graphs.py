"""Forwards recorded as CUDA graphs: at small sizes the host launches kernels too slowly.

A graph is recorded for a bucket's shape, not for its company: who lies where is in tensors, which
are overwritten before each replay. Recording costs about one forward, and nothing is compiled.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.denoising.forward import ForwardInputs
from pipeline.denoising.packing import Bucket

_WARM_RUNS: Final = 1
"""Eager forwards of a bucket before it is recorded: a shape that is asked for once is not worth it,
and libraries must have chosen and compiled their kernels."""


@dataclass(frozen=True, eq=False)
class _Recording:
    graph: Any
    inputs: ForwardInputs
    rows: Tensor


class GraphedForward:
    """Runs a forward eagerly the first time a bucket is met, and replays it from then on."""

    def __init__(self, forward: Callable[[ForwardInputs], Tensor], *, max_graphs: int = 64) -> None:
        self._forward = forward
        self._max_graphs = max_graphs
        self._runs: dict[Bucket, int] = {}
        self._recordings: OrderedDict[Bucket, _Recording] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, inputs: ForwardInputs, bucket: Bucket) -> Tensor:
        """Return the forward's rows: they hold until the next call."""
        runs = self._runs.get(bucket, 0)
        if runs < _WARM_RUNS:
            self._runs[bucket] = runs + 1
            return self._forward(inputs)
        if bucket not in self._recordings:
            self._recordings[bucket] = self._record(inputs)
            while len(self._recordings) > self._max_graphs:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(bucket)
        recording = self._recordings[bucket]
        recording.inputs.copy_(inputs)
        recording.graph.replay()
        return recording.rows

    def _record(self, inputs: ForwardInputs) -> _Recording:
        static = inputs.clone()
        graph = torch.cuda.CUDAGraph()
        # Another thread may use the device meanwhile: only this one's calls are recorded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            rows = self._forward(static)
        return _Recording(graph, static, rows)
