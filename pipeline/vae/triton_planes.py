"""Kernels over planes whose channels lie together (`channels_last`), for NVIDIA GPUs.

A GroupNorm takes three steps: chunks of pixels give each channel's moments, the chunks are merged
into a factor and a term for each channel, and one pass over the plane applies them. Chunks depend
on the plane's shape alone and nothing is added atomically: the same plane gives the same bytes.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor, nn

from pipeline.vae.moments import GroupMoments


@dataclass(frozen=True)
class _Block:
    """What one program holds at once."""

    num_elements: int
    num_warps: int

    def split(self, num_channels: int) -> tuple[int, int]:
        """Return its pixels and its channels, which are all of them."""
        block_channels: int = triton.next_power_of_2(num_channels)
        return max(1, self.num_elements // block_channels), block_channels


_MAX_PARTS: Final = 1024
"""Chunks of a plane. More make `add` and `weave` a little faster, and merging them slower."""
_READING: Final = _Block(2048, 4)
_WRITING: Final = _Block(4096, 8)
"""With `_GATHER_STAGES`, within 5 % of the fastest of 27 on an H200, at four fifths and more of the
memory's rate."""
_GATHER_STAGES: Final = 3
"""Blocks of a chunk that are on their way at once: with one, a chunk waits for each read."""
_APPLYING: Final = _Block(4096, 8)
_SOFTMAX_BLOCK: Final = 4096


@dataclass(frozen=True, eq=False)
class MomentParts:
    """Moments of each channel in each chunk of a plane."""

    means: Tensor
    """[chunks, C] float32."""
    squares: Tensor
    """[chunks, C] float32: sums of squared deviations from the chunk's mean."""
    num_pixels: int
    chunk_pixels: int

    def to_groups(self, num_groups: int) -> GroupMoments:
        """Merge into the moments of groups of channels, in float64 on the device."""
        num_parts, num_channels = self.means.shape
        starts = torch.arange(num_parts, device=self.means.device) * self.chunk_pixels
        counts = (self.num_pixels - starts).clamp(max=self.chunk_pixels).double()[:, None, None]
        means, squares = (
            part.double().view(num_parts, num_groups, -1) for part in (self.means, self.squares)
        )
        total = self.num_pixels * num_channels // num_groups
        mean = (counts * means).sum((0, 2)) / total
        spread = squares + counts * (means - mean[:, None]) ** 2
        return GroupMoments(total, mean, spread.sum((0, 2)))


def gather(plane: Tensor, bias: Tensor | None = None) -> MomentParts:
    """Gather the moments of [1, C, h, w] plus `bias`; it may be a window of a larger plane."""
    _require_channels_last(plane)
    return _gather(plane, plane.shape[-2:], bias=bias)


def add_and_gather(
    plane: Tensor,
    residual: Tensor,
    bias: Tensor | None = None,
    residual_bias: Tensor | None = None,
) -> tuple[Tensor, MomentParts]:
    """Add what is given to `plane`, in its place, and gather the moments of the sum."""
    plane = plane.contiguous(memory_format=torch.channels_last)
    _require_channels_last(residual)
    parts = _gather(
        plane,
        plane.shape[-2:],
        bias=bias,
        residual=residual,
        residual_bias=residual_bias,
        stored=plane,
    )
    return plane, parts


def interleave_and_gather(phases: Tensor, bias: Tensor | None) -> tuple[Tensor, MomentParts]:
    """Weave the four phases of a doubled plane, add `bias`, and gather the moments.

    Args:
        phases: [1, 4 C, h + 1, w + 1], as `subpixel_weight` makes a convolution give them.
        bias: [C].

    Returns:
        [1, C, 2 h, 2 w] and its moments.
    """
    phases = phases.contiguous(memory_format=torch.channels_last)
    num_channels, height, width = phases.shape[1] // 4, phases.shape[2] - 1, phases.shape[3] - 1
    doubled = torch.empty(
        (1, num_channels, 2 * height, 2 * width),
        dtype=phases.dtype,
        device=phases.device,
        memory_format=torch.channels_last,
    )
    parts = _gather(phases, doubled.shape[-2:], bias=bias, stored=doubled, is_interleaved=True)
    return doubled, parts


def merge(
    parts: MomentParts, norm: nn.GroupNorm, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return each channel's factor and term of `norm`, [C] float32, for a plane without `bias`.

    Args:
        parts: Moments of the plane with `bias`.
        norm: The norm.
        bias: [C] that the plane in memory still lacks.
    """
    num_parts, num_channels = parts.means.shape
    factors = torch.empty(2, num_channels, dtype=torch.float32, device=parts.means.device)
    per_group = num_channels // norm.num_groups
    _merge_kernel[(norm.num_groups,)](
        parts.means,
        parts.squares,
        norm.weight,
        norm.bias,
        bias,
        factors[0],
        factors[1],
        parts.num_pixels,
        parts.chunk_pixels,
        num_parts,
        num_channels,
        per_group,
        norm.eps,
        block_parts=triton.next_power_of_2(num_parts),
        block_channels=triton.next_power_of_2(per_group),
        num_warps=8,
    )
    return factors[0], factors[1]


def apply(
    plane: Tensor,
    factor: Tensor,
    term: Tensor,
    *,
    activates: bool,
    overwrites: bool = False,
) -> Tensor:
    """Return `factor * plane + term`, through SiLU if `activates`; [1, C, h, w]."""
    _require_channels_last(plane)
    num_channels, height, width = plane.shape[1:]
    is_dense = plane.is_contiguous(memory_format=torch.channels_last)
    applied = plane
    if not overwrites or not is_dense:
        applied = torch.empty_like(plane, memory_format=torch.channels_last)
    block_pixels, block_channels = _APPLYING.split(num_channels)
    _apply_kernel[(triton.cdiv(height * width, block_pixels),)](
        plane,
        factor,
        term,
        applied,
        height * width,
        width,
        plane.stride(2),
        num_channels,
        is_dense=is_dense,
        activates=activates,
        block_pixels=block_pixels,
        block_channels=block_channels,
        num_warps=_APPLYING.num_warps,
    )
    return applied


def softmax(scores: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Return the softmax of `scale * scores` over the rows of [rows, columns] float32."""
    weights = torch.empty_like(scores, dtype=dtype)
    _softmax_kernel[(scores.shape[0],)](
        scores, weights, scores.shape[1], scale, block=_SOFTMAX_BLOCK, num_warps=8
    )
    return weights


def subpixel_weight(weight: Tensor) -> Tensor:
    """Fold "double every pixel, then convolve 3x3" into one convolution 2x2 of the small plane.

    A doubled pixel is seen through two taps at once, so each of the four pixels that a small one
    becomes needs 2x2 of its neighbours and the sums of taps: four ninths of the products.

    Returns:
        [4 C, C_in, 2, 2], the phases of even and odd rows and columns one after another; with
        padding 1, phase (a, b) of pixel (i, j) lies at (i + a, j + b).
    """
    exact = weight.float()
    phases = [
        _fold_taps(_fold_taps(exact, 2, row), 3, column) for row in (0, 1) for column in (0, 1)
    ]
    return torch.cat(phases).to(weight.dtype).contiguous(memory_format=torch.channels_last)


def _fold_taps(weight: Tensor, dim: int, phase: int) -> Tensor:
    first, middle, last = weight.unbind(dim)
    pair = (first, middle + last) if phase == 0 else (first + middle, last)
    return torch.stack(pair, dim)


def _gather(
    source: Tensor,
    size: torch.Size,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    residual_bias: Tensor | None = None,
    stored: Tensor | None = None,
    is_interleaved: bool = False,
) -> MomentParts:
    height, width = size
    num_pixels = height * width
    num_channels = source.shape[1] // (4 if is_interleaved else 1)
    block = _READING if stored is None else _WRITING
    block_pixels, block_channels = block.split(num_channels)
    chunk = triton.cdiv(triton.cdiv(num_pixels, _MAX_PARTS), block_pixels) * block_pixels
    num_parts = triton.cdiv(num_pixels, chunk)
    moments = torch.empty(2, num_parts, num_channels, dtype=torch.float32, device=source.device)
    is_dense = all(
        tensor is None or tensor.is_contiguous(memory_format=torch.channels_last)
        for tensor in (source, residual)
    )
    _gather_kernel[(num_parts,)](
        source,
        bias,
        residual,
        residual_bias,
        stored,
        moments[0],
        moments[1],
        num_pixels,
        width,
        source.stride(2),
        0 if residual is None else residual.stride(2),
        chunk,
        num_channels,
        is_interleaved=is_interleaved,
        is_dense=is_dense and not is_interleaved,
        block_pixels=block_pixels,
        block_channels=block_channels,
        stages=_GATHER_STAGES,
        num_warps=block.num_warps,
    )
    return MomentParts(moments[0], moments[1], num_pixels, chunk)


def _require_channels_last(plane: Any) -> None:
    """Take whole rows of channels and no gap between a row's pixels: windows have these."""
    _, num_channels, _, width = plane.shape
    has_dense_pixels = width == 1 or plane.stride(3) == num_channels
    if plane.shape[0] != 1 or plane.stride(1) != 1 or not has_dense_pixels:
        raise ValueError(
            f"planes must be one picture in channels_last, got {list(plane.shape)} "
            f"with strides {plane.stride()}"
        )


@triton.jit
def _offsets(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    pixel,
    channel,
    width,
    stride,
    num_channels,
    is_interleaved: tl.constexpr,
    is_dense: tl.constexpr,
):
    if is_dense:
        return pixel.to(tl.int64) * num_channels + channel
    row = pixel // width
    column = pixel % width
    if is_interleaved:
        phase = (row % 2) * 2 + column % 2
        across = ((column + 1) // 2) * 4 + phase
        return ((row + 1) // 2).to(tl.int64) * stride + across * num_channels + channel
    return row.to(tl.int64) * stride + column * num_channels + channel


@triton.jit
def _read(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    source,
    bias,
    residual,
    residual_bias,
    pixel,
    channel,
    within,
    width,
    stride,
    residual_stride,
    num_channels,
    is_interleaved: tl.constexpr,
    is_dense: tl.constexpr,
):
    at = _offsets(pixel, channel, width, stride, num_channels, is_interleaved, is_dense)
    values = tl.load(source + at, mask=within, other=0.0).to(tl.float32)
    is_channel = channel < num_channels
    if bias is not None:
        values += tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)
    if residual is not None:
        at = _offsets(pixel, channel, width, residual_stride, num_channels, False, is_dense)
        values += tl.load(residual + at, mask=within, other=0.0).to(tl.float32)
    if residual_bias is not None:
        values += tl.load(residual_bias + channel, mask=is_channel, other=0.0).to(tl.float32)
    return values


@triton.jit
def _gather_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    source,
    bias,
    residual,
    residual_bias,
    stored,
    means,
    squares,
    num_pixels,
    width,
    stride,
    residual_stride,
    chunk,
    num_channels,
    is_interleaved: tl.constexpr,
    is_dense: tl.constexpr,
    block_pixels: tl.constexpr,
    block_channels: tl.constexpr,
    stages: tl.constexpr,
):
    part = tl.program_id(0)
    first = part * chunk
    channel = tl.arange(0, block_channels)[None, :]
    row = tl.arange(0, block_pixels)[:, None]
    # Deviations are from the chunk's first pixel: plain squares would lose what a large mean hides.
    origin = _read(
        source,
        bias,
        residual,
        residual_bias,
        first + tl.zeros((1, 1), tl.int32),
        channel,
        channel < num_channels,
        width,
        stride,
        residual_stride,
        num_channels,
        is_interleaved,
        is_dense,
    )
    # `stored` may be `source`: no thread may write the first pixel while another has to read it.
    tl.debug_barrier()
    sums = tl.zeros((block_pixels, block_channels), tl.float32)
    sums_of_squares = tl.zeros((block_pixels, block_channels), tl.float32)
    for start in tl.range(0, chunk, block_pixels, num_stages=stages):
        pixel = first + start + row
        within = (pixel < num_pixels) & (channel < num_channels)
        values = _read(
            source,
            bias,
            residual,
            residual_bias,
            pixel,
            channel,
            within,
            width,
            stride,
            residual_stride,
            num_channels,
            is_interleaved,
            is_dense,
        )
        if stored is not None:
            rounded = values.to(stored.dtype.element_ty)
            at = pixel.to(tl.int64) * num_channels + channel
            tl.store(stored + at, rounded, mask=within)
            values = rounded.to(tl.float32)
        deviations = tl.where(within, values - origin, 0.0)
        sums += deviations
        sums_of_squares += deviations * deviations
    count = tl.minimum(chunk, num_pixels - first).to(tl.float32)
    sums = tl.sum(sums, axis=0, keep_dims=True)
    spread = tl.sum(sums_of_squares, axis=0, keep_dims=True) - sums * sums / count
    at = part * num_channels + channel
    tl.store(means + at, origin + sums / count, mask=channel < num_channels)
    tl.store(squares + at, tl.maximum(spread, 0.0), mask=channel < num_channels)


@triton.jit
def _merge_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    means,
    squares,
    weight,
    bias,
    lacking,
    factor,
    term,
    num_pixels,
    chunk,
    num_parts,
    num_channels,
    per_group,
    eps,
    block_parts: tl.constexpr,
    block_channels: tl.constexpr,
):
    part = tl.arange(0, block_parts)[:, None]
    member = tl.arange(0, block_channels)
    channel = tl.program_id(0) * per_group + member
    at = part * num_channels + channel[None, :]
    within = (part < num_parts) & (member < per_group)[None, :]
    count = tl.minimum(chunk, num_pixels - part * chunk).to(tl.float32)
    count = tl.where(within, count, 0.0)
    total = num_pixels.to(tl.float32) * per_group
    part_means = tl.load(means + at, mask=within, other=0.0)
    mean = tl.sum(tl.sum(count * part_means, axis=1), axis=0) / total
    apart = part_means - mean
    spread = tl.load(squares + at, mask=within, other=0.0) + count * apart * apart
    variance = tl.sum(tl.sum(spread, axis=1), axis=0) / total
    is_member = member < per_group
    factors = tl.load(weight + channel, mask=is_member, other=0.0).to(tl.float32)
    factors *= 1.0 / tl.sqrt(variance + eps)
    terms = tl.load(bias + channel, mask=is_member, other=0.0).to(tl.float32)
    if lacking is not None:
        mean -= tl.load(lacking + channel, mask=is_member, other=0.0).to(tl.float32)
    tl.store(factor + channel, factors, mask=is_member)
    tl.store(term + channel, terms - mean * factors, mask=is_member)


@triton.jit
def _apply_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    source,
    factor,
    term,
    applied,
    num_pixels,
    width,
    stride,
    num_channels,
    is_dense: tl.constexpr,
    activates: tl.constexpr,
    block_pixels: tl.constexpr,
    block_channels: tl.constexpr,
):
    channel = tl.arange(0, block_channels)[None, :]
    pixel = tl.program_id(0) * block_pixels + tl.arange(0, block_pixels)[:, None]
    is_channel = channel < num_channels
    within = (pixel < num_pixels) & is_channel
    at = _offsets(pixel, channel, width, stride, num_channels, False, is_dense)
    values = tl.load(source + at, mask=within, other=0.0).to(tl.float32)
    values *= tl.load(factor + channel, mask=is_channel, other=0.0)
    values += tl.load(term + channel, mask=is_channel, other=0.0)
    if activates:
        values *= tl.sigmoid(values)
    at = pixel.to(tl.int64) * num_channels + channel
    tl.store(applied + at, values.to(applied.dtype.element_ty), mask=within)


@triton.jit
def _softmax_kernel(scores, weights, num_columns, scale, block: tl.constexpr):  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    start_of_row = tl.program_id(0).to(tl.int64) * num_columns
    # Finite, so that a column that is never met does not give the difference of two infinities.
    largest = tl.full((block,), -3.0e38, tl.float32)
    total = tl.zeros((block,), tl.float32)
    for start in range(0, num_columns, block):
        column = start + tl.arange(0, block)
        within = column < num_columns
        values = tl.load(scores + start_of_row + column, mask=within, other=-float("inf")) * scale
        larger = tl.maximum(largest, values)
        total = total * tl.exp(largest - larger) + tl.exp(values - larger)
        largest = larger
    peak = tl.max(largest, axis=0)
    inverse = 1.0 / tl.sum(total * tl.exp(largest - peak), axis=0)
    for start in range(0, num_columns, block):
        column = start + tl.arange(0, block)
        within = column < num_columns
        values = tl.load(scores + start_of_row + column, mask=within, other=-float("inf")) * scale
        weighted = tl.exp(values - peak) * inverse
        tl.store(
            weights + start_of_row + column, weighted.to(weights.dtype.element_ty), mask=within
        )
