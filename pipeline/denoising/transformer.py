"""One forward of the transformer for items of any size, prompt length and timestep.

Built on the weights of diffusers' `ZImageTransformer2DModel`; its forward is replaced, its modules
are called. Nothing is padded to the longest item, and no item sees another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.acceleration.attention import AttentionKernel, SequenceLayout, layout_sequences
from pipeline.denoising.blocks import PackedRows, run_block
from pipeline.denoising.caching import ByteBoundedCache
from pipeline.denoising.captions import CaptionState, check_prompt_embeds
from pipeline.denoising.cost import SEQUENCE_MULTIPLE, ForwardCost, pad_tokens
from pipeline.denoising.modulation import Modulation, compute_modulation
from pipeline.denoising.packing import ItemShape, PackedLayout, group_forwards
from pipeline.denoising.positions import WHOLE_CANVAS, PositionGrid, RotaryEmbedder
from pipeline.denoising.sameness import linears_of_packed_rows, packs_exactly
from pipeline.errors import InvalidRequestError
from pipeline.latents import LATENT_CHANNELS
from pipeline.request import PATCH_SIZE

_PATCH_KEY: Final = f"{PATCH_SIZE}-1"
_MIB: Final = 2**20


@dataclass(frozen=True)
class SharingLimits:
    """How far items share a forward."""

    solo_rows: int
    """An item of so many tokens fills the device, and has a forward of its own."""
    max_rows: int
    """Tokens of a shared forward."""


# A GPU is full from a megapixel up. A CPU gains while what a block makes of the rows stays in its
# cache: with the embedded model 2,000 rows at once were slower than one item after another.
_LIMITS: Final = {"cuda": SharingLimits(4096, 16384), "cpu": SharingLimits(512, 1024)}


@dataclass(frozen=True, eq=False)
class PackedItem:
    """What one request, or one tile of it, brings to a forward."""

    latents: Tensor
    """[16, h, w] float32."""
    model_time: float
    """1 - sigma, see `Schedule.model_time`."""
    caption: CaptionState
    positions: PositionGrid = WHOLE_CANVAS
    residuals: Mapping[int, Tensor] = field(default_factory=dict)
    """By main layer: what a ControlNet adds to the item's [image and caption rows, dim]."""

    @property
    def shape(self) -> ItemShape:
        """The item's tokens."""
        _, height, width = self.latents.shape
        return ItemShape(height // PATCH_SIZE, width // PATCH_SIZE, self.caption.num_rows)


@dataclass(frozen=True, eq=False)
class _Rotary:
    rows: Tensor

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes


class PackedTransformer:
    """Predicts velocities of many items at once.

    With `is_strict`, an item's velocity has the same bytes whatever it shares a forward with. Where
    the machine's linears do not allow that (`sameness`), each item has a forward of its own.
    One thread owns it.
    """

    def __init__(
        self,
        model: Any,
        attention: AttentionKernel,
        *,
        is_strict: bool = True,
        limits: SharingLimits | None = None,
    ) -> None:
        self._model = model
        self._attention = attention
        self._final_layer = model.all_final_layer[_PATCH_KEY]
        self._embed_patches = model.all_x_embedder[_PATCH_KEY]
        self._embedder = RotaryEmbedder.from_config(model.config)
        self._rotary: ByteBoundedCache[object, _Rotary] = ByteBoundedCache(256 * _MIB)
        self._modulations: ByteBoundedCache[float, Modulation] = ByteBoundedCache(128 * _MIB)
        self.cost = ForwardCost.from_config(model.config)
        self.shares_forwards = not is_strict or packs_exactly(linears_of_packed_rows(model))
        self._limits = limits or _LIMITS[self.device.type]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self._model.device
        return device

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
        model, num_tokens = self._model, prompt_embeds.shape[0]
        num_rows = pad_tokens(num_tokens)
        embeds = prompt_embeds.to(self.device, model.dtype)
        padded = torch.cat([embeds, embeds[-1:].expand(num_rows - num_tokens, -1)])
        hidden = model.cap_embedder(padded)
        hidden[num_tokens:] = model.cap_pad_token
        rows = PackedRows(layout_sequences([num_rows], self.device), self._caption_rotary(num_rows))
        for block in model.context_refiner:
            hidden = run_block(block, hidden, rows, self._attention, None)
        return CaptionState(hidden, num_tokens)

    @torch.no_grad()
    def predict_velocity(self, items: Sequence[PackedItem]) -> list[Tensor]:
        """Predict each item's velocity, its sign as `Schedule.advance` takes it.

        Returns:
            [16, h, w] float32 tensors on the transformer's device, in the order of the items.

        Raises:
            InvalidRequestError: If an item's latents are not [16, even, even].
        """
        for item in items:
            _check_latents(item.latents)
        velocities: dict[int, Tensor] = {}
        for group in self._group(items):
            predicted = self._forward([items[index] for index in group])
            velocities.update(zip(group, predicted, strict=True))
        return [velocities[index] for index in range(len(items))]

    def _group(self, items: Sequence[PackedItem]) -> list[tuple[int, ...]]:
        rows = [item.shape.num_joint_rows for item in items]
        solo_rows = self._limits.solo_rows if self.shares_forwards else 0
        return group_forwards(rows, solo_rows=solo_rows, max_rows=self._limits.max_rows)

    def _forward(self, items: Sequence[PackedItem]) -> list[Tensor]:
        model = self._model
        layout = PackedLayout(tuple(item.shape for item in items))
        modulations = [self._modulation(item.model_time) for item in items]
        by_block = torch.stack([modulation.blocks for modulation in modulations], dim=1)
        num_refiners = len(model.noise_refiner)

        hidden = self._embed(items, layout)
        rotary = [self._image_rotary(item) for item in items]
        rows = PackedRows(layout_sequences(layout.image_lengths, self.device), torch.cat(rotary))
        for index, block in enumerate(model.noise_refiner):
            hidden = run_block(block, hidden, rows, self._attention, by_block[index])

        hidden = self._join(hidden, items, rows.layout)
        rows = self._joint_rows(items, layout, rotary)
        for index, block in enumerate(model.layers):
            modulation = by_block[num_refiners + index]
            hidden = run_block(block, hidden, rows, self._attention, modulation)
            _add_residuals(hidden, items, index, layout)
        return self._finish(hidden, items, layout, modulations)

    def _embed(self, items: Sequence[PackedItem], layout: PackedLayout) -> Tensor:
        model = self._model
        patches = torch.zeros(
            sum(layout.image_lengths),
            self._embed_patches.in_features,
            dtype=model.dtype,
            device=self.device,
        )
        for index, item in enumerate(items):
            patches[layout.patch_rows(index)] = _patchify(item.latents.to(self.device, model.dtype))
        hidden: Tensor = self._embed_patches(patches)
        for index in range(len(items)):
            hidden[layout.image_pad_rows(index)] = model.x_pad_token
        return hidden

    def _join(self, hidden: Tensor, items: Sequence[PackedItem], images: SequenceLayout) -> Tensor:
        captions = [item.caption.rows for item in items]
        pairs = zip(torch.split(hidden, list(images.lengths)), captions, strict=True)
        return torch.cat([part for pair in pairs for part in pair])

    def _joint_rows(
        self, items: Sequence[PackedItem], layout: PackedLayout, rotary: Sequence[Tensor]
    ) -> PackedRows:
        captions = [self._caption_rotary(item.caption.num_rows) for item in items]
        pairs = zip(rotary, captions, strict=True)
        joint = torch.cat([part for pair in pairs for part in pair])
        return PackedRows(layout_sequences(layout.joint_lengths, self.device), joint)

    def _finish(
        self,
        hidden: Tensor,
        items: Sequence[PackedItem],
        layout: PackedLayout,
        modulations: Sequence[Modulation],
    ) -> list[Tensor]:
        hidden = self._final_layer.norm_final(hidden)
        for index, modulation in enumerate(modulations):
            hidden[layout.joint_rows(index)].mul_(modulation.final)
        hidden = self._final_layer.linear(hidden)
        return [
            -_unpatchify(hidden[layout.joint_patch_rows(index)], item.shape).float()
            for index, item in enumerate(items)
        ]

    def _modulation(self, model_time: float) -> Modulation:
        compute = partial(compute_modulation, self._model, self._final_layer, model_time)
        return self._modulations.get_or_make(model_time, compute)

    def _caption_rotary(self, num_rows: int) -> Tensor:
        def embed() -> _Rotary:
            return _Rotary(self._embedder.embed_caption(num_rows).to(self.device))

        return self._rotary.get_or_make(num_rows, embed).rows

    def _image_rotary(self, item: PackedItem) -> Tensor:
        def embed() -> _Rotary:
            return _Rotary(self._embedder.embed_image(item.shape, item.positions).to(self.device))

        return self._rotary.get_or_make((item.shape, item.positions), embed).rows


def _check_latents(latents: Tensor) -> None:
    shape = tuple(latents.shape)
    is_plane = len(shape) == 3 and shape[0] == LATENT_CHANNELS
    if not is_plane or any(side <= 0 or side % PATCH_SIZE for side in shape[1:]):
        raise InvalidRequestError(
            f"latents must be [{LATENT_CHANNELS}, even height, even width], got {list(shape)}"
        )


def _add_residuals(
    hidden: Tensor, items: Sequence[PackedItem], layer: int, layout: PackedLayout
) -> None:
    for index, item in enumerate(items):
        if layer in item.residuals:
            hidden[layout.joint_rows(index)].add_(item.residuals[layer])


def _patchify(latents: Tensor) -> Tensor:
    """Cut [c, h, w] into [patches, 2 * 2 * c], channels last within a patch."""
    channels, height, width = latents.shape
    grid = latents.view(channels, height // PATCH_SIZE, PATCH_SIZE, width // PATCH_SIZE, PATCH_SIZE)
    return grid.permute(1, 3, 2, 4, 0).reshape(-1, PATCH_SIZE * PATCH_SIZE * channels)


def _unpatchify(patches: Tensor, shape: ItemShape) -> Tensor:
    grid = patches.view(shape.patch_rows, shape.patch_cols, PATCH_SIZE, PATCH_SIZE, LATENT_CHANNELS)
    height, width = shape.patch_rows * PATCH_SIZE, shape.patch_cols * PATCH_SIZE
    return grid.permute(4, 0, 2, 1, 3).reshape(LATENT_CHANNELS, height, width)
