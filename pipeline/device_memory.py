"""The peak of GPU memory since a mark. Of the whole process, which runs one stage."""

import torch


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
