"""Attention over packed sequences: tokens of one item never see another item's.

Every kernel takes query, key and value as [rows, heads, head_dim] with the items one after another,
and each gives an item the same bytes whatever it is packed with.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.errors import AttentionUnavailableError


@dataclass(frozen=True, eq=False)
class SequenceLayout:
    """Where each item's rows lie in a packed sequence."""

    lengths: tuple[int, ...]
    """Rows of each item; an empty item has none."""
    offsets: Tensor
    """[items + 1] int32 on the sequence's device: each item's start, and the last one's end."""
    max_length: int
    """Rows of the longest item, or more: kernels size their grid by it."""

    @property
    def num_rows(self) -> int:
        """Rows of all items."""
        return sum(self.lengths)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Each item's rows."""
        ends = [sum(self.lengths[: index + 1]) for index in range(len(self.lengths))]
        return tuple(
            slice(end - length, end) for end, length in zip(ends, self.lengths, strict=True)
        )


def layout_sequences(
    lengths: Sequence[int], device: torch.device, *, max_length: int | None = None
) -> SequenceLayout:
    """Lay items of the given lengths one after another."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    offsets = torch.tensor(starts, dtype=torch.int32, device=device)
    return SequenceLayout(tuple(lengths), offsets, max_length or max(lengths))


class AttentionKernel(Protocol):
    """Softmax attention without a mask inside an item, and nothing between items."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
        """Attend; all are [rows, heads, head_dim]."""
        ...


class PerItemAttention:
    """PyTorch's dense kernel, one item at a time: no item's shape depends on its company."""

    def __init__(self, backend: SDPBackend | None = None) -> None:
        self._backend = backend

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
        """Attend."""
        with self._restrict():
            if len(layout.lengths) == 1:
                return _attend_densely(query, key, value)
            attended = torch.empty_like(query)
            for rows, length in zip(layout.slices, layout.lengths, strict=True):
                if length:
                    attended[rows] = _attend_densely(query[rows], key[rows], value[rows])
            return attended

    def _restrict(self) -> AbstractContextManager[None]:
        return nullcontext() if self._backend is None else sdpa_kernel(self._backend)


def _attend_densely(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (rows.transpose(0, 1).unsqueeze(0) for rows in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1)


class VarlenAttention:
    """PyTorch's flash kernel for packed sequences: one launch for all items.

    A thread block works on one item's rows and walks that item's keys in order, so the company
    changes the grid and not the sums.
    """

    def __init__(self) -> None:
        from torch.nn.attention.varlen import varlen_attn  # absent from builds without CUDA

        self._attend: Callable[..., Any] = varlen_attn

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
        """Attend."""
        longest = layout.max_length
        attended: Tensor = self._attend(
            query, key, value, layout.offsets, layout.offsets, longest, longest
        )
        return attended


class XformersAttention:
    """xFormers' memory-efficient kernel with a block-diagonal mask."""

    def __init__(self) -> None:
        from xformers.ops import fmha  # an optional dependency

        self._attend: Callable[..., Any] = fmha.memory_efficient_attention
        self._mask_of: Callable[..., Any] = fmha.attn_bias.BlockDiagonalMask.from_seqlens

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
        """Attend."""
        mask = self._mask_of(list(layout.lengths), device=query.device)
        batched = (tensor.unsqueeze(0) for tensor in (query, key, value))
        attended: Tensor = self._attend(*batched, attn_bias=mask)
        return attended[0]


_KERNELS: Final[dict[str, Callable[[], AttentionKernel]]] = {
    "sdpa": PerItemAttention,
    "cudnn": lambda: PerItemAttention(SDPBackend.CUDNN_ATTENTION),
    "varlen": VarlenAttention,
    "xformers": XformersAttention,
}

ATTENTION_NAMES: Final = tuple(_KERNELS)


def build_attention(name: str, device: torch.device) -> AttentionKernel:
    """Build a kernel by its name, and run it once on the device.

    Raises:
        AttentionUnavailableError: If no kernel has that name, or this machine cannot run it.
    """
    if name not in _KERNELS:
        raise AttentionUnavailableError(
            f"attention must be one of {', '.join(_KERNELS)}, got {name!r}"
        )
    if name != "sdpa" and device.type != "cuda":
        raise AttentionUnavailableError(f"attention {name!r} needs a CUDA device, got {device}")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    probe = torch.ones(64, 1, 64, dtype=dtype, device=device)
    try:
        kernel = _KERNELS[name]()
        kernel(probe, probe, probe, layout_sequences([32, 32], device))
    except (ImportError, NotImplementedError, RuntimeError) as exc:
        raise AttentionUnavailableError(
            f"attention {name!r} does not run on this machine: {exc}"
        ) from exc
    return kernel
