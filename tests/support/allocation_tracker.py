"""Counts what a computation allocates, without computing: true sizes on a machine without a GPU.

Fake tensors have shapes and storage sizes, and no numbers. What a library's kernel takes for
itself, as a convolution's workspace, is not seen.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE, HOST = "device", "host"


class AllocationTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Live and peak bytes, those of parked tensors apart."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live = {DEVICE: 0, HOST: 0}
        self._known: set[int] = set()
        self.peak_bytes = {DEVICE: 0, HOST: 0}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        outcome = func(*args, **kwargs)
        # Only parking names the device of an `empty_like`: everything else stays where it is.
        is_parked = func is torch.ops.aten.empty_like.default and "device" in kwargs
        for leaf in tree_leaves(outcome):
            if isinstance(leaf, Tensor):
                self._note(leaf, HOST if is_parked else DEVICE)
        return outcome

    def _note(self, tensor: Tensor, place: str) -> None:
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._live[place] += num_bytes
        self.peak_bytes[place] = max(self.peak_bytes[place], self._live[place])
        weakref.finalize(storage, self._forget, key, num_bytes, place)

    def _forget(self, key: int, num_bytes: int, place: str) -> None:
        self._known.discard(key)
        self._live[place] -= num_bytes


def track_allocations(
    module: nn.Module, run: Callable[[], object], *, dtype: torch.dtype
) -> dict[str, int]:
    """Return the peak bytes of `run` with fake weights of `dtype`, the weights not counted."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in module.modules():
            for name, weight in part.named_parameters(recurse=False):
                fake = nn.Parameter(torch.empty(weight.shape, dtype=dtype), requires_grad=False)
                setattr(part, name, fake)
        tracker = AllocationTracker()
        with tracker:
            run()
    return tracker.peak_bytes
