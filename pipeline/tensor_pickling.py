"""How dataclasses with tensors cross a process: as arrays of bytes, which NumPy pickles.

torch's own pickling writes a small file for each tensor and reads it back, which costs a process
that only passes it on as much as all else that it does with a message.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class _Packed(NamedTuple):
    content: NDArray[np.uint8]
    """Of the tensor's shape, its last side in bytes."""
    dtype: torch.dtype


class PicklesTensors:
    """Makes a dataclass, a frozen one too, pickle its own tensors so; values stay the same."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields as they are pickled."""
        return {
            name: _pack(value) if isinstance(value, Tensor) and _is_packable(value) else value
            for name, value in self.__dict__.items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the fields as they were pickled."""
        self.__dict__.update(
            (name, _unpack(value) if isinstance(value, _Packed) else value)
            for name, value in state.items()
        )


def view_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """Return what a tensor on the CPU holds, its last side in bytes; a copy if it has gaps."""
    content: NDArray[np.uint8] = tensor.detach().contiguous().view(torch.uint8).numpy()
    return content


def _is_packable(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dim() > 0 and tensor.layout is torch.strided


def _pack(tensor: Tensor) -> _Packed:
    return _Packed(view_bytes(tensor), tensor.dtype)


def _unpack(packed: _Packed) -> Tensor:
    content = packed.content
    # What lies in Ray's object store is read-only, which torch does not know of.
    owned = content if content.flags.writeable else content.copy()
    return torch.from_numpy(owned).view(packed.dtype)
