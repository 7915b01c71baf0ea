"""The transformer's forward in few kernels: merged products, and one row kernel between two.

A block is at most eight launches and its attention: query, key and value in one product, turned in
place; output; sum, norm and modulation; both halves of the feed-forward in one product; gate; its
second product; and sum with the next block's norm and modulation. In 8 bits the row kernels write
quantised rows. With integers, and in bfloat16 on Hopper, the gate is within its product, and for
integers a row kernel quantises after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.acceleration import triton_rows
from pipeline.acceleration.attention import AttentionKernel
from pipeline.acceleration.gated_projections import (
    GatedByRows,
    GatedProjection,
    feed_forward,
    merge_gated,
)
from pipeline.acceleration.options import Acceleration, Precision
from pipeline.acceleration.projections import Projection, Rows, merge, split_rows
from pipeline.denoising.forward import PATCH_KEY, ForwardInputs, Residuals, TransformerForward
from pipeline.denoising.row_ops import PackedRows, RowOps
from pipeline.denoising.sameness import make_pack_exactly


@dataclass(frozen=True, eq=False)
class FusedBlock:
    """A block's merged weights."""

    module: Any
    to_qkv: Projection
    to_out: Projection
    to_gate: GatedProjection
    """Both halves of the feed-forward: `w1`, which is gated, and `w3`."""
    from_gate: Projection

    @property
    def projections(self) -> tuple[Projection, ...]:
        """All products."""
        return (self.to_qkv, self.to_out, self.to_gate.product, self.from_gate)

    def exchange(self, exchanged: Mapping[Projection, Projection]) -> "FusedBlock":
        """Return the block with other products for its own."""
        product = exchanged[self.to_gate.product]
        return FusedBlock(
            self.module,
            exchanged[self.to_qkv],
            exchanged[self.to_out],
            self.to_gate if product is self.to_gate.product else GatedByRows(product),
            exchanged[self.from_gate],
        )


_FEED_ROWS: Final = 8192
"""Rows that go through a feed-forward at once: about a picture of 1408x1408.

Its values are the forward's peak, both halves where the gate is a kernel of its own.
"""

FusedBlocks = dict[int, FusedBlock]
"""By `id` of the module."""


@torch.no_grad()
def fuse_blocks(
    model: Any, acceleration: Acceleration, device: torch.device, *, keeps_source: bool
) -> FusedBlocks:
    """Bring all blocks to the device, merge and quantise their weights, one block after another.

    So a device that does not hold the model in 16 bits can hold it in 8. The context refiner stays
    in 16: it runs once a request. With `keeps_source` the model's own modules work afterwards; that
    costs the memory of both in 8 bits, and for the gated halves where the gate is in their product.
    """
    named = {
        **{f"context_refiner.{i}": block for i, block in enumerate(model.context_refiner)},
        **{f"noise_refiner.{i}": block for i, block in enumerate(model.noise_refiner)},
        **{f"layers.{i}": block for i, block in enumerate(model.layers)},
    }
    fused = {
        id(block): _fuse_block(name, block.to(device), acceleration, keeps_source=keeps_source)
        for name, block in named.items()
    }
    if device.type == "cuda":
        # What the separate weights were in would stay in the allocator's cache.
        torch.cuda.empty_cache()
    return fused


def share_blocks(
    model: Any, blocks: FusedBlocks, device: torch.device, row_counts: Sequence[int]
) -> FusedBlocks | None:
    """Return blocks whose rows have the same bytes at each of these numbers of rows.

    Those of the main layers and of the noise refiner. None if a product cannot be made so.
    """
    packed = {id(block): blocks[id(block)] for block in (*model.noise_refiner, *model.layers)}
    products = [product for block in packed.values() for product in block.projections]
    exchanged = make_pack_exactly(products, device, model.dtype, row_counts)
    if exchanged is None:
        return None
    return {key: block.exchange(exchanged) for key, block in packed.items()}


def _fuse_block(
    name: str, block: Any, acceleration: Acceleration, *, keeps_source: bool
) -> FusedBlock:
    attention, mlp = block.attention, block.feed_forward

    is_of_prompt = name.startswith("context_refiner")

    def precision_of(path: str) -> Precision:
        stays = is_of_prompt or any(
            fnmatch(f"{name}.{path}", each) for each in acceleration.bfloat16_layers
        )
        return Precision.BFLOAT16 if stays else acceleration.precision

    def build(path: str, *linears: Any) -> Projection:
        return merge(linears, precision_of(path), keeps_source=keeps_source)

    gate = "feed_forward.w1"
    halves = (mlp.w1, mlp.w3)
    return FusedBlock(
        block,
        build("attention.to_qkv", attention.to_q, attention.to_k, attention.to_v),
        build("attention.to_out", attention.to_out[0]),
        merge_gated(
            halves, precision_of(gate), keeps_source=keeps_source, gates_bfloat16=not is_of_prompt
        ),
        build("feed_forward.w2", mlp.w2),
    )


class FusedForward(TransformerForward):
    """Runs `FusedBlock`s over `ForwardInputs`; what lies outside of blocks is as it was."""

    def __init__(
        self, model: Any, blocks: FusedBlocks, ops: RowOps, attention: AttentionKernel
    ) -> None:
        super().__init__(model, ops, attention)
        self._blocks = blocks

    def __call__(self, inputs: ForwardInputs, residuals: Residuals | None = None) -> Tensor:
        """Return [joint rows, 64], the sign as the model has it."""
        model = self._model
        embedded = self._ops.linear(model.all_x_embedder[PATCH_KEY], inputs.patches)
        hidden = torch.where(inputs.is_image_pad, model.x_pad_token, embedded)
        num_refiners = len(model.noise_refiner)
        refining = inputs.modulation[:, :num_refiners]
        hidden = self._run_chain(list(model.noise_refiner), hidden, inputs.image, refining, {})
        hidden = torch.cat([hidden, inputs.captions]).index_select(0, inputs.join_index)
        modulation = inputs.modulation[:, num_refiners:]
        layers = list(model.layers)
        hidden = self._run_chain(layers, hidden, inputs.joint, modulation, residuals or {})
        return self._finish(hidden, inputs)

    def run_block(
        self, block: Any, hidden: Tensor, rows: PackedRows, modulation: Tensor | None
    ) -> Tensor:
        """Run one block over [rows, dim]; `modulation` is [items, 4, dim]."""
        modulations = None if modulation is None else modulation.unsqueeze(1)
        return self._run_chain([block], hidden, rows, modulations, {})

    def _run_chain(
        self,
        modules: Sequence[Any],
        hidden: Tensor,
        rows: PackedRows,
        modulation: Tensor | None,
        residuals: Residuals,
    ) -> Tensor:
        blocks = [self._blocks[id(module)] for module in modules]
        steps = [_steps_of(modulation, index) for index in range(len(blocks))]
        hidden, normed = _enter(blocks[0], hidden, steps[0][0], rows)
        for index, block in enumerate(blocks):
            _, gate_msa, scale_mlp, gate_mlp = steps[index]
            hidden, normed = triton_rows.add_and_norm(
                hidden,
                update=block.to_out(self._attend_fused(block, normed, rows)),
                update_norm=block.module.attention_norm2,
                gate=gate_msa,
                norm=block.module.ffn_norm1,
                factors=scale_mlp,
                item_of_row=rows.item_of_row,
                quantized_to=block.to_gate.reads,
            )
            fed = _feed_forward(block, normed)
            is_last = index + 1 == len(blocks)
            # A residual is added between two blocks, so the sum and the next norm come apart.
            is_parted = is_last or index in residuals
            following = None if is_parted else blocks[index + 1]
            hidden, normed = triton_rows.add_and_norm(
                hidden,
                update=fed,
                update_norm=block.module.ffn_norm2,
                gate=gate_mlp,
                norm=None if following is None else following.module.attention_norm1,
                factors=None if following is None else steps[index + 1][0],
                item_of_row=rows.item_of_row,
                quantized_to=None if following is None else following.to_qkv.reads,
            )
            for where, residual in residuals.get(index, ()):
                hidden[where].add_(residual)
            if is_parted and not is_last:
                hidden, normed = _enter(blocks[index + 1], hidden, steps[index + 1][0], rows)
        return hidden

    def _attend_fused(self, block: FusedBlock, normed: Rows, rows: PackedRows) -> Rows:
        module = block.module.attention
        merged = block.to_qkv(normed)
        head_dim = merged.shape[1] // (3 * module.heads)
        triton_rows.rotate_normed_(
            merged,
            torch.view_as_real(rows.rotary),
            module.norm_q,
            module.norm_k,
            num_heads=module.heads,
            num_key_heads=module.heads,
            head_dim=head_dim,
        )
        query, key, value = merged.view(-1, 3, module.heads, head_dim).unbind(1)
        attended = self._attention(query, key, value, rows.layout).flatten(1)
        reads = block.to_out.reads
        return attended if reads is None else triton_rows.quantize(attended, reads)


def _feed_forward(block: FusedBlock, normed: Rows) -> Tensor:
    """Gate and multiply, a large picture's rows in parts: both halves together are its peak."""
    parts = [
        feed_forward(block.to_gate, block.from_gate, part)
        for part in split_rows(normed, _FEED_ROWS)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _enter(
    block: FusedBlock, hidden: Tensor, factors: Tensor | None, rows: PackedRows
) -> tuple[Tensor, Rows]:
    return triton_rows.add_and_norm(
        hidden,
        norm=block.module.attention_norm1,
        factors=factors,
        item_of_row=rows.item_of_row,
        quantized_to=block.to_qkv.reads,
    )


def _steps_of(modulation: Tensor | None, index: int) -> tuple[Tensor | None, ...]:
    """Return scale and gate of attention, scale and gate of the feed-forward, [items, dim] each."""
    return (None,) * 4 if modulation is None else modulation[:, index].unbind(1)
