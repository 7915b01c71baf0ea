"""What torch raises: whether memory was short, or the device is done for."""

from typing import Final

import torch

_MEMORY_ALLOCATION: Final = 2
"""`cudaErrorMemoryAllocation`: what CUDA itself says, where it is not torch's allocator that asks
for memory, as for a graph, a kernel's code or pinned memory. It leaves the device well."""


def lacks_memory(exc: BaseException) -> bool:
    """Say whether memory was short."""
    if isinstance(exc, torch.OutOfMemoryError):
        return True
    is_of_device = isinstance(exc, torch.AcceleratorError)
    return is_of_device and getattr(exc, "error_code", None) == _MEMORY_ALLOCATION


def is_device_lost(exc: BaseException) -> bool:
    """Say whether the device itself failed: nothing can run on it any more."""
    return isinstance(exc, torch.AcceleratorError) and not lacks_memory(exc)
