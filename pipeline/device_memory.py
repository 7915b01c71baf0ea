"""A process's own bound on GPU memory, and its peak since a mark. A process runs one stage."""

from typing import Final

import torch

from pipeline.errors import PipelineError

_GIB: Final = 2**30


def cap_memory(device: torch.device, memory_gib: float) -> None:
    """Bound what this process allocates on a card; what goes beyond is out of memory.

    Raises:
        PipelineError: If the card has less than that.
    """
    total_gib = torch.cuda.get_device_properties(device).total_memory / _GIB
    torch.cuda.set_per_process_memory_fraction(to_fraction(memory_gib, total_gib), device)


def to_fraction(memory_gib: float, total_gib: float) -> float:
    """Return the part of a card that `memory_gib` are.

    Raises:
        PipelineError: If the card has less than that.
    """
    if memory_gib > total_gib:
        raise PipelineError(
            f"memory_gib must be at most the card's {total_gib:.2f}, got {memory_gib:.2f}"
        )
    return memory_gib / total_gib


def mark_peak_memory() -> None:
    """Forget earlier peaks; a CPU has none."""
    if _uses_gpu():
        torch.cuda.reset_peak_memory_stats()


def read_peak_memory() -> int | None:
    """Return the most bytes that tensors took since the mark; None on a CPU."""
    return torch.cuda.max_memory_allocated() if _uses_gpu() else None


def _uses_gpu() -> bool:
    """Say whether this process has touched a GPU: asking for one would start it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
