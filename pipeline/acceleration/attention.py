"""Attention over packed sequences: tokens of one item never see another item's.

Every kernel takes query, key and value as [rows, heads, head_dim] with the items one after another,
and each gives an item the same bytes whatever it is packed with.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.acceleration.options import AUTO
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

    @property
    def reads_lengths(self) -> bool:
        """Whether it reads the lengths of several items on the host.

        A recorded forward would keep those that it was recorded with.
        """
        ...

    @property
    def is_recordable(self) -> bool:
        """Whether a forward with it can be recorded at all."""
        ...

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
        """Attend; all are [rows, heads, head_dim]."""
        ...


class PerItemAttention:
    """PyTorch's dense kernel, one item at a time: no item's shape depends on its company."""

    reads_lengths = True
    is_recordable = True

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

    reads_lengths = False
    is_recordable = True

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
    """xFormers' memory-efficient kernel with a block-diagonal mask.

    For one item too: without a mask it may round differently, and company must not show.
    """

    reads_lengths = True
    is_recordable = False  # each call copies a mask to the device

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


class Flash4Attention:
    """FlashAttention 4, dense for one item and packed for several; Hopper and Blackwell.

    Each kernel is compiled at its first call, in about a second, whatever the lengths.
    """

    reads_lengths = False
    is_recordable = True

    def __init__(self) -> None:
        # Of its compiler, about an argument that is not used here.
        warnings.filterwarnings("ignore", message="Argument aux_data")
        from flash_attn import cute  # an optional dependency

        self._attend: Callable[..., Any] = cute.flash_attn_func
        self._attend_packed: Callable[..., Any] = cute.flash_attn_varlen_func

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
        """Attend."""
        if len(layout.lengths) == 1:
            dense = (rows.unsqueeze(0) for rows in (query, key, value))
            attended: Tensor = self._attend(*dense)[0][0]
            return attended
        packed: Tensor = self._attend_packed(
            query,
            key,
            # The last tile of an item's keys reaches into the next item, whose values count 0 times
            # there: those that are not finite would make NaN of it.
            value.nan_to_num(),
            cu_seqlens_q=layout.offsets,
            cu_seqlens_k=layout.offsets,
            max_seqlen_q=layout.max_length,
            max_seqlen_k=layout.max_length,
        )[0]
        return packed


_KERNELS: Final[dict[str, Callable[[], AttentionKernel]]] = {
    "sdpa": PerItemAttention,
    "cudnn": lambda: PerItemAttention(SDPBackend.CUDNN_ATTENTION),
    "flash4": Flash4Attention,
    "varlen": VarlenAttention,
    "xformers": XformersAttention,
}

ATTENTION_NAMES: Final = tuple(_KERNELS)

_PACKAGES: Final = {"flash4": "flash-attn-4", "xformers": "xformers"}
"""What kernels come from that are not PyTorch's."""

_FLASH4_MEASURED: Final = ((9, 0),)
"""Compute capabilities of the GPUs where it was measured to be the fastest."""


@dataclass(frozen=True)
class AttentionChoice:
    """Kernels by name."""

    packed: str
    """Of forwards that items share."""
    solo: str
    """Of a picture that has its forward for itself."""

    def identify(self) -> str:
        """Name what decides the bytes, with the versions of what is not PyTorch's own."""
        return "+".join(_identify(name) for name in dict.fromkeys((self.packed, self.solo)))


def choose_attention(name: str, device: torch.device) -> AttentionChoice:
    """Choose what `auto` stands for on this machine; any other name stands for itself."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose_for_capability(name, capability, has_flash4=_version_of("flash4") is not None)


def choose_for_capability(
    name: str, capability: tuple[int, int] | None, *, has_flash4: bool
) -> AttentionChoice:
    """Choose for a GPU's compute capability; None is a CPU.

    FlashAttention 4, where it is installed, is faster on Hopper at every length, packed or not.
    Without it, cuDNN's kernel is faster than PyTorch's packed one, but takes one item at a time.
    """
    if name != AUTO:
        return AttentionChoice(name, name)
    if capability is None:
        return AttentionChoice("sdpa", "sdpa")
    if has_flash4 and capability in _FLASH4_MEASURED:
        return AttentionChoice("flash4", "flash4")
    return AttentionChoice("varlen", "cudnn")


def _identify(name: str) -> str:
    version = _version_of(name)
    return name if version is None else f"{name}-{version}"


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(_PACKAGES[name]) if name in _PACKAGES else None
    except metadata.PackageNotFoundError:
        return None


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
