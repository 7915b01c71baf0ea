"""The transformer's forward over packed rows, from the weights of `ZImageTransformer2DModel`.

All that varies between two forwards of one shape is in tensors (`ForwardInputs`, `CaptionInputs`),
so that a forward can be recorded once and replayed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.acceleration.attention import AttentionKernel
from pipeline.denoising.row_ops import PackedRows, RowOps
from pipeline.denoising.static_inputs import StaticInputs
from pipeline.request import PATCH_SIZE

PATCH_KEY: Final = f"{PATCH_SIZE}-1"


@dataclass(frozen=True, eq=False)
class CaptionInputs(StaticInputs):
    """What one prompt brings to the caption path."""

    embeds: Tensor
    """[padded tokens, dim of the text encoder]."""
    is_pad: Tensor
    """[padded tokens, 1] bool: where the model's learned pad goes."""
    rows: PackedRows

    @property
    def num_rows(self) -> int:
        """Tokens, the model's own padding counted."""
        return int(self.embeds.shape[0])


@dataclass(frozen=True, eq=False)
class ForwardInputs(StaticInputs):
    """What several items bring to one forward, laid out by `packing`."""

    patches: Tensor
    """[image rows, 64], zero where there is no patch."""
    is_image_pad: Tensor
    """[image rows, 1] bool: where the model's learned pad goes."""
    captions: Tensor
    """[caption rows, dim]."""
    join_index: Tensor
    """[joint rows] int64 into image rows followed by caption rows."""
    modulation: Tensor
    """[items, blocks, 4, dim]."""
    final_scale: Tensor
    """[items, dim]."""
    image: PackedRows
    joint: PackedRows


Residuals = Mapping[int, Sequence[tuple[slice, Tensor]]]
"""By main layer: which joint rows get what added."""


class TransformerForward:
    """Runs the weights over `ForwardInputs`."""

    def __init__(self, model: Any, ops: RowOps, attention: AttentionKernel) -> None:
        self._model = model
        self._ops = ops
        self._attention = attention

    def __call__(self, inputs: ForwardInputs, residuals: Residuals | None = None) -> Tensor:
        """Return [joint rows, 64], the sign as the model has it."""
        model = self._model
        embedded = self._ops.linear(model.all_x_embedder[PATCH_KEY], inputs.patches)
        hidden = torch.where(inputs.is_image_pad, model.x_pad_token, embedded)
        num_refiners = len(model.noise_refiner)
        for index, block in enumerate(model.noise_refiner):
            hidden = self.run_block(block, hidden, inputs.image, inputs.modulation[:, index])
        hidden = torch.cat([hidden, inputs.captions]).index_select(0, inputs.join_index)
        for index, block in enumerate(model.layers):
            modulation = inputs.modulation[:, num_refiners + index]
            hidden = self.run_block(block, hidden, inputs.joint, modulation)
            for rows, residual in (residuals or {}).get(index, ()):
                hidden[rows].add_(residual)
        return self._finish(hidden, inputs)

    def encode_caption(self, inputs: CaptionInputs) -> Tensor:
        """Return [padded tokens, dim]: caption embedder and context refiner."""
        model = self._model
        embedded = model.cap_embedder(inputs.embeds)
        hidden = torch.where(inputs.is_pad, model.cap_pad_token, embedded)
        for block in model.context_refiner:
            hidden = self.run_block(block, hidden, inputs.rows, None)
        return hidden

    def run_block(
        self, block: Any, hidden: Tensor, rows: PackedRows, modulation: Tensor | None
    ) -> Tensor:
        """Run one `ZImageTransformerBlock` over [rows, dim].

        `modulation` is [items, 4, dim]: scale and gate of attention, scale and gate of the
        feed-forward; None for a block without it.
        """
        ops = self._ops
        scale_msa, gate_msa, scale_mlp, gate_mlp = (
            (None,) * 4 if modulation is None else modulation.unbind(1)
        )
        attended = ops.norm(block.attention_norm1, hidden, scale_msa, rows)
        attended = self._attend(block.attention, attended, rows)
        hidden = ops.add_normed(block.attention_norm2, hidden, attended, gate_msa, rows)

        fed = ops.norm(block.ffn_norm1, hidden, scale_mlp, rows)
        fed = self._feed_forward(block.feed_forward, fed, rows)
        return ops.add_normed(block.ffn_norm2, hidden, fed, gate_mlp, rows)

    def _attend(self, module: Any, hidden: Tensor, rows: PackedRows) -> Tensor:
        ops = self._ops
        query, key, value = (
            ops.linear(projection, hidden).view(hidden.shape[0], module.heads, -1)
            for projection in (module.to_q, module.to_k, module.to_v)
        )
        query = ops.rotate_normed(module.norm_q, query, rows)
        key = ops.rotate_normed(module.norm_k, key, rows)
        attended = self._attention(query, key, value, rows.layout)
        return ops.linear(module.to_out[0], attended.flatten(1))

    def _feed_forward(self, module: Any, hidden: Tensor, rows: PackedRows) -> Tensor:
        ops = self._ops
        gated = ops.gate(ops.linear(module.w1, hidden), ops.linear(module.w3, hidden), rows)
        return ops.linear(module.w2, gated)

    def _finish(self, hidden: Tensor, inputs: ForwardInputs) -> Tensor:
        final = self._model.all_final_layer[PATCH_KEY]
        normed = self._ops.norm(final.norm_final, hidden, inputs.final_scale, inputs.joint)
        return self._ops.linear(final.linear, normed)
