"""The device a stage runs on, and the precision and the name that follow from it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.errors import PipelineError

DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class ComputeDevice:
    """A device with the precision that stages compute in there."""

    device: torch.device
    dtype: torch.dtype

    @property
    def accelerator(self) -> str:
        """What the fingerprint calls it: the GPU's name, or `cpu` with its instruction set."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device).replace(" ", "-")
        return f"cpu-{torch.backends.cpu.get_cpu_capability().lower()}"

    @property
    def precision(self) -> str:
        """The name of the dtype without torch's prefix."""
        return str(self.dtype).removeprefix("torch.")


def choose_device(name: DeviceName = "auto", *, num_threads: int | None = None) -> ComputeDevice:
    """Choose where a stage runs: bfloat16 on a GPU, float32 on the CPU.

    fp16 overflows in this model, and bfloat16 is five times slower than float32 on CPUs without
    matrix instructions for it.

    Args:
        name: `auto` takes a GPU if the process sees one.
        num_threads: Threads of one operation on the CPU; None leaves torch's choice.

    Raises:
        PipelineError: If a GPU is asked for and the process sees none.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise PipelineError("device must be available, got 'cuda' where torch sees no GPU")
    if name == "cpu" or not has_gpu:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        return ComputeDevice(torch.device("cpu"), torch.float32)
    return ComputeDevice(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16)


def begin_copy_to_host(tensor: Tensor) -> Tensor:
    """Return a copy in host memory, which is complete once the device has come so far."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def copy_to_host(tensor: Tensor) -> Tensor:
    """Return a complete copy in host memory, pinned where a GPU copies it."""
    copied = begin_copy_to_host(tensor)
    if tensor.device.type == "cuda":
        torch.cuda.current_stream(tensor.device).synchronize()
    return copied
