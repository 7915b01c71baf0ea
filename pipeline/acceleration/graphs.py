"""Forwards recorded as CUDA graphs: at small sizes the host launches kernels too slowly.

A graph is recorded for a shape, not for its content: what varies is in tensors, which are
overwritten before each replay. Recording costs about one forward, and nothing is compiled.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

_WARM_RUNS: Final = 1
"""Eager forwards of a shape before it is recorded: one that is asked for once is not worth it,
and libraries must have chosen and compiled their kernels."""


class StaticInputs(Protocol):
    """Tensors at fixed addresses, overwritten before each replay; one `Tensor` will do."""

    def clone(self) -> Self:
        """Copy every tensor."""
        ...

    def copy_(self, other: Self, /) -> object:
        """Overwrite every tensor with another's of the same shape."""
        ...


Inputs = TypeVar("Inputs", bound=StaticInputs)


@dataclass(frozen=True, eq=False)
class _Recording(Generic[Inputs]):
    graph: Any
    inputs: Inputs
    output: Tensor


class GraphedForward(Generic[Inputs]):
    """Runs a forward eagerly the first time a shape is met, and replays it from then on.

    Forwards with one `pool` share the memory of what they compute on the way, so only one of them
    may run at a time. A graph is not launched anew before its last run has ended: with two copies
    of it, replayed in turn, the device goes from one run to the next without a pause.
    """

    def __init__(
        self,
        forward: Callable[[Inputs], Tensor],
        *,
        max_graphs: int = 32,
        pool: Any = None,
        num_copies: int = 1,
    ) -> None:
        self._forward = forward
        self._max_graphs = max_graphs
        self._runs: dict[Hashable, int] = {}
        self._num_copies = num_copies
        self._recordings: OrderedDict[Hashable, deque[_Recording[Inputs]]] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle() if pool is None else pool

    @property
    def pool(self) -> Any:
        """The memory that recordings share."""
        return self._pool

    def __call__(self, inputs: Inputs, shape: Hashable) -> Tensor:
        """Return the forward's output: it holds until the next call."""
        runs = self._runs.get(shape, 0)
        if runs < _WARM_RUNS:
            self._runs[shape] = runs + 1
            return self._forward(inputs)
        copies = self._recordings.setdefault(shape, deque())
        self._recordings.move_to_end(shape)
        while len(self._recordings) > self._max_graphs:
            evicted, _ = self._recordings.popitem(last=False)
            # Or shapes in turn, one more than are kept, would each be recorded at every call.
            self._runs.pop(evicted, None)
        if len(copies) < self._num_copies:
            copies.append(self._record(inputs))
        else:
            copies.rotate(-1)
        recording = copies[-1]
        recording.inputs.copy_(inputs)
        recording.graph.replay()
        return recording.output

    def forget(self, pool: Any = None) -> None:
        """Give the memory of all recordings back; shapes that were met are recorded again.

        Into `pool`, if forwards share one: the allocator takes no new graph into one whose last
        graph has gone.
        """
        self._recordings.clear()
        self._pool = torch.cuda.graph_pool_handle() if pool is None else pool

    def _record(self, inputs: Inputs) -> _Recording[Inputs]:
        static = inputs.clone()
        graph = torch.cuda.CUDAGraph()
        # Another thread may use the device meanwhile: only this one's calls are recorded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = self._forward(static)
        return _Recording(graph, static, output)
