"""One forward of the transformer for items of any size, prompt length and timestep.

Built on the weights of diffusers' `ZImageTransformer2DModel`; its forward is replaced, its modules
are used. Nothing is padded to the longest item, and no item sees another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.acceleration.attention import AttentionKernel
from pipeline.acceleration.graphs import GraphedForward
from pipeline.acceleration.options import Acceleration, BlockKernels
from pipeline.denoising.assembly import (
    Assembler,
    PackedItem,
    collect_residuals,
    split_velocities,
)
from pipeline.denoising.captions import CaptionState, check_prompt_embeds
from pipeline.denoising.cost import SEQUENCE_MULTIPLE, ForwardCost
from pipeline.denoising.forward import CaptionInputs, ForwardInputs, TransformerForward
from pipeline.denoising.packing import (
    BucketGrid,
    PackedLayout,
    SharingLimits,
    group_forwards,
)
from pipeline.denoising.sameness import (
    build_row_ops,
    choose_row_ops,
    linears_outside_blocks,
)

__all__ = ["SHARING_LIMITS", "PackedItem", "PackedTransformer"]


# Recorded, a GPU is as fast with a picture of 512x512 alone as with several. A CPU gains while what
# a block makes of the rows stays in its cache: with the embedded model 2,000 rows at once were
# slower than one item after another.
SHARING_LIMITS: Final = {"cuda": SharingLimits(1024, 4096), "cpu": SharingLimits(512, 1024)}
_BUCKETS: Final = {"cuda": BucketGrid(image_rows=256, caption_rows=128), "cpu": BucketGrid()}

_EXACT: Final = BucketGrid()

_GRAPH_ROWS: Final = 4608
"""Larger forwards are not recorded: the host launches kernels faster than a GPU runs them."""


@dataclass
class RowCount:
    """Rows of forwards that items shared."""

    owned: int = 0
    """Those of the items, with the padding that is the model's own."""
    run: int = 0
    """All that were computed."""

    @property
    def waste(self) -> float:
        """The share that fixed shapes have added."""
        return 1 - self.owned / self.run if self.run else 0.0


class PackedTransformer:
    """Predicts velocities of many items at once.

    With `is_strict`, an item's velocity has the same bytes whatever it shares a forward with. Where
    the machine's linears do not allow that (`sameness`), each item has a forward of its own.
    One thread owns it.

    `acceleration` is how blocks are computed, the model's own modules if None. Fusing takes the
    weights of the model's linears away, except with `keeps_source`, and brings the model to
    `device`, block by block, from wherever it is.
    """

    def __init__(
        self,
        model: Any,
        attention: AttentionKernel,
        *,
        solo_attention: AttentionKernel | None = None,
        is_strict: bool = True,
        limits: SharingLimits | None = None,
        buckets: BucketGrid | None = None,
        acceleration: Acceleration | None = None,
        keeps_source: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self._model = model
        self._device = device or model.device
        self._assembler = Assembler(model, self._device, model.dtype)
        self._limits = limits or SHARING_LIMITS[self.device.type]
        self._buckets = buckets or _BUCKETS[self.device.type]
        solo_attention = solo_attention or attention
        if acceleration is None or acceleration.kernels is BlockKernels.MODULES:
            ops, self.shares_forwards = choose_row_ops(
                model, is_strict=is_strict, row_counts=self._row_counts()
            )
            self._shared: TransformerForward = TransformerForward(model, ops, attention)
            self._solo = TransformerForward(model, build_row_ops(self.device), solo_attention)
        else:
            self._fuse(acceleration, attention, solo_attention, is_strict, keeps_source)
        self._shared_graphs: GraphedForward[ForwardInputs] | None = None
        self._solo_graphs: GraphedForward[ForwardInputs] | None = None
        self._caption_graphs: GraphedForward[CaptionInputs] | None = None
        if self.device.type == "cuda" and solo_attention.is_recordable:
            self._solo_graphs = GraphedForward(self._solo, num_copies=2)
            pool = self._solo_graphs.pool
            self._caption_graphs = GraphedForward(self._solo.encode_caption, pool=pool)
            if not attention.reads_lengths:
                self._shared_graphs = GraphedForward(self._shared, pool=pool, num_copies=2)
        self.cost = ForwardCost.from_config(model.config)
        self.shared_rows = RowCount()

    def _fuse(
        self,
        acceleration: Acceleration,
        attention: AttentionKernel,
        solo_attention: AttentionKernel,
        is_strict: bool,
        keeps_source: bool,
    ) -> None:
        # Its kernels come with CUDA builds only.
        from pipeline.denoising.fused_forward import (
            FusedBlocks,
            FusedForward,
            fuse_blocks,
            share_blocks,
        )

        model, row_counts = self._model, self._row_counts()
        blocks = fuse_blocks(model, acceleration, self.device, keeps_source=keeps_source)
        model.to(self.device)
        ops, are_exact = choose_row_ops(
            model,
            is_strict=is_strict,
            row_counts=row_counts,
            linears=linears_outside_blocks(model),
        )
        shared: FusedBlocks | None = blocks if are_exact else None
        if shared and is_strict:
            shared = share_blocks(model, shared, self.device, row_counts)
        self.shares_forwards = shared is not None
        self._shared = FusedForward(model, shared or blocks, ops, attention)
        self._solo = FusedForward(model, blocks, build_row_ops(self.device), solo_attention)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    def check_prompt(self, prompt_embeds: Tensor) -> None:
        """Refuse prompt embeddings that the caption path cannot read.

        Raises:
            InvalidRequestError: Naming the rule and the shape.
        """
        config = self._model.config
        max_tokens = config.axes_lens[0] - SEQUENCE_MULTIPLE  # the image's position comes after
        check_prompt_embeds(prompt_embeds, dim=config.cap_feat_dim, max_tokens=max_tokens)

    @torch.no_grad()
    def encode_caption(self, prompt_embeds: Tensor) -> CaptionState:
        """Run caption embedder and context refiner, once a request.

        Args:
            prompt_embeds: [tokens, dim of the text encoder].
        """
        self.check_prompt(prompt_embeds)
        inputs = self._assembler.assemble_caption(prompt_embeds)
        if self._caption_graphs is None:
            hidden = self._solo.encode_caption(inputs)
        else:
            hidden = self._caption_graphs(inputs, inputs.num_rows).clone()
        return CaptionState(hidden, num_tokens=prompt_embeds.shape[0])

    @torch.no_grad()
    def predict_velocity(self, items: Sequence[PackedItem]) -> list[Tensor]:
        """Predict each item's velocity, its sign as `Schedule.advance` takes it.

        Returns:
            [16, h, w] float32 tensors on the transformer's device, in the order of the items.

        Raises:
            InvalidRequestError: If an item's latents are not [16, even, even].
        """
        velocities: dict[int, Tensor] = {}
        for group in self._group(items):
            members = [items[index] for index in group]
            is_solo = self.runs_apart(members[0])
            predicted = self._predict_solo(members[0]) if is_solo else self._predict_shared(members)
            velocities.update(zip(group, predicted, strict=True))
        return [velocities[index] for index in range(len(items))]

    def runs_apart(self, item: PackedItem) -> bool:
        """Say whether an item has a forward of its own, whoever else is there."""
        return item.shape.num_joint_rows >= self._solo_rows

    def release_memory(self) -> None:
        """Let go of all that is kept for later forwards, recordings included.

        What the device was asked for is done when this returns.
        """
        self._assembler.clear()
        if self.device.type != "cuda":
            return
        torch.cuda.synchronize(self.device)
        recorded = (self._solo_graphs, self._shared_graphs, self._caption_graphs)
        pool = torch.cuda.graph_pool_handle()
        for graphs in recorded:
            if graphs is not None:
                graphs.forget(pool)
        torch.cuda.empty_cache()

    def _group(self, items: Sequence[PackedItem]) -> list[tuple[int, ...]]:
        rows = [item.shape.num_joint_rows for item in items]
        return group_forwards(rows, replace(self._limits, solo_rows=self._solo_rows))

    def _row_counts(self) -> tuple[int, ...]:
        return self._buckets.row_counts(self._limits)

    @property
    def _solo_rows(self) -> int:
        return self._limits.solo_rows if self.shares_forwards else 0

    def _predict_solo(self, item: PackedItem) -> list[Tensor]:
        return self._run([item], _EXACT.lay_out([item.shape]), self._solo, self._solo_graphs)

    def _predict_shared(self, items: Sequence[PackedItem]) -> list[Tensor]:
        layout = self._buckets.lay_out([item.shape for item in items])
        self.shared_rows.owned += sum(item.shape.num_joint_rows for item in items)
        self.shared_rows.run += layout.bucket.joint_rows
        return self._run(items, layout, self._shared, self._shared_graphs)

    def _run(
        self,
        items: Sequence[PackedItem],
        layout: PackedLayout,
        forward: TransformerForward,
        graphs: GraphedForward[ForwardInputs] | None,
    ) -> list[Tensor]:
        inputs = self._assembler.assemble(items, layout)
        residuals = collect_residuals(items, layout)
        if graphs is None or residuals or layout.bucket.joint_rows > _GRAPH_ROWS:
            return split_velocities(forward(inputs, residuals), layout)
        return split_velocities(graphs(inputs, layout.bucket), layout)
