"""Items to the tensors of one forward, and its rows back to velocities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.acceleration.attention import SequenceLayout, layout_sequences
from pipeline.denoising.caching import ByteBoundedCache
from pipeline.denoising.captions import CaptionState
from pipeline.denoising.cost import pad_tokens
from pipeline.denoising.forward import PATCH_KEY, CaptionInputs, ForwardInputs, Residuals
from pipeline.denoising.modulation import Modulation, compute_modulation
from pipeline.denoising.packing import ItemShape, PackedLayout
from pipeline.denoising.positions import WHOLE_CANVAS, PositionGrid, RotaryEmbedder
from pipeline.denoising.row_ops import PackedRows
from pipeline.errors import InvalidRequestError
from pipeline.latents import LATENT_CHANNELS
from pipeline.request import PATCH_SIZE
from pipeline.tensor_pickling import view_bytes

_MIB = 2**20


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
        """The item's tokens.

        Raises:
            InvalidRequestError: If the latents are not [16, even, even].
        """
        shape = tuple(self.latents.shape)
        is_plane = len(shape) == 3 and shape[0] == LATENT_CHANNELS
        if not is_plane or any(side <= 0 or side % PATCH_SIZE for side in shape[1:]):
            raise InvalidRequestError(
                f"latents must be [{LATENT_CHANNELS}, even height, even width], got {list(shape)}"
            )
        _, height, width = shape
        return ItemShape(height // PATCH_SIZE, width // PATCH_SIZE, self.caption.num_rows)


@dataclass(frozen=True, eq=False)
class _LayoutTensors:
    """A layout's tensors, the same for every step of the same company."""

    is_image_pad: Tensor
    join_index: Tensor
    image: SequenceLayout
    image_item: Tensor
    joint: SequenceLayout
    joint_item: Tensor

    @property
    def nbytes(self) -> int:
        tensors = (self.is_image_pad, self.join_index, self.image_item, self.joint_item)
        return sum(tensor.nbytes for tensor in tensors)


class Assembler:
    """Builds the inputs of forwards, and keeps what steps have in common. One thread owns it.

    Device and type are given: a diffusers model looks through all its modules to say them.
    """

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._model = model
        self._device = device
        self._dtype = dtype
        self._embedder = RotaryEmbedder.from_config(model.config)
        self._rotary: ByteBoundedCache[object, Tensor] = ByteBoundedCache(256 * _MIB)
        self._modulations: ByteBoundedCache[float, Modulation] = ByteBoundedCache(128 * _MIB)
        self._caption_rows: dict[int, PackedRows] = {}
        self._caption_pads: dict[int, Tensor] = {}
        self._layouts: ByteBoundedCache[PackedLayout, _LayoutTensors] = ByteBoundedCache(64 * _MIB)

    def clear(self) -> None:
        """Keep nothing: all of it is made again where it is needed."""
        for cache in (self._rotary, self._modulations, self._layouts):
            cache.clear()
        self._caption_rows.clear()
        self._caption_pads.clear()

    def assemble(self, items: Sequence[PackedItem], layout: PackedLayout) -> ForwardInputs:
        """Build the inputs of one forward."""
        fixed = self._layouts.get_or_make(layout, lambda: self._build_layout(layout))
        modulations = [self._modulation(item.model_time) for item in items]
        bucket = layout.bucket
        image_rotary, joint_rotary = self._rotaries(items, layout)
        return ForwardInputs(
            patches=self._patches(items, layout),
            is_image_pad=fixed.is_image_pad,
            captions=_concatenate([item.caption.rows for item in items], bucket.caption_rows),
            join_index=fixed.join_index,
            modulation=_stack([each.blocks for each in modulations], bucket.num_items),
            final_scale=_stack([each.final for each in modulations], bucket.num_items),
            image=PackedRows(fixed.image, fixed.image_item, image_rotary),
            joint=PackedRows(fixed.joint, fixed.joint_item, joint_rotary),
        )

    def _rotaries(self, items: Sequence[PackedItem], layout: PackedLayout) -> tuple[Tensor, Tensor]:
        """Return the embeddings of the image's rows and of the joint ones, kept for the company."""
        key = (layout, tuple(item.positions for item in items))

        def join() -> Tensor:
            parts = [
                part
                for item in items
                for part in (self._image_rotary(item), self.caption_rotary(item.caption.num_rows))
            ]
            return _concatenate(parts, layout.bucket.joint_rows)

        image = self._rotary.get_or_make(
            ("image", *key),
            lambda: _concatenate(
                [self._image_rotary(item) for item in items], layout.bucket.image_rows
            ),
        )
        return image, self._rotary.get_or_make(("joint", *key), join)

    def caption_rotary(self, num_rows: int) -> Tensor:
        """Return the rotary embedding of a caption, on the device."""
        return self._rotary.get_or_make(
            num_rows, lambda: self._embedder.embed_caption(num_rows).to(self._device)
        )

    def assemble_caption(self, prompt_embeds: Tensor) -> CaptionInputs:
        """Build what the caption path reads, for one prompt at a time.

        Args:
            prompt_embeds: [tokens, dim of the text encoder].
        """
        num_tokens = prompt_embeds.shape[0]
        num_rows = pad_tokens(num_tokens)
        embeds = self._pad_embeds(prompt_embeds, num_rows)
        if num_tokens not in self._caption_pads:
            self._caption_pads[num_tokens] = self._mark_caption_pads(num_tokens, num_rows)
        if num_rows not in self._caption_rows:
            self._caption_rows[num_rows] = self._build_caption_rows(num_rows)
        return CaptionInputs(embeds, self._caption_pads[num_tokens], self._caption_rows[num_rows])

    def _pad_embeds(self, prompt_embeds: Tensor, num_rows: int) -> Tensor:
        """Repeat the last row, and bring all to the device.

        Padded where they are: the device waits for one copy, not for a handful of launches.
        """
        num_tokens, dim = prompt_embeds.shape
        # A pageable source would make the host wait for the copy.
        pins = self._device.type == "cuda"
        padded = torch.empty((num_rows, dim), dtype=prompt_embeds.dtype, pin_memory=pins)
        # PyTorch would wake a thread on every core, for less than one of them copies meanwhile.
        rows, source = view_bytes(padded), view_bytes(prompt_embeds.cpu())
        rows[:num_tokens], rows[num_tokens:] = source, source[-1]
        return padded.to(self._device, self._dtype, non_blocking=pins)

    def _mark_caption_pads(self, num_tokens: int, num_rows: int) -> Tensor:
        return (torch.arange(num_rows, device=self._device) >= num_tokens).unsqueeze(1)

    def _build_caption_rows(self, num_rows: int) -> PackedRows:
        layout = layout_sequences([num_rows], self._device)
        item_of_row = torch.zeros(num_rows, dtype=torch.int32, device=self._device)
        return PackedRows(layout, item_of_row, self.caption_rotary(num_rows))

    def _image_rotary(self, item: PackedItem) -> Tensor:
        return self._rotary.get_or_make(
            (item.shape, item.positions),
            lambda: self._embedder.embed_image(item.shape, item.positions).to(self._device),
        )

    def _modulation(self, model_time: float) -> Modulation:
        final_layer = self._model.all_final_layer[PATCH_KEY]
        return self._modulations.get_or_make(
            model_time, lambda: compute_modulation(self._model, final_layer, model_time)
        )

    def _patches(self, items: Sequence[PackedItem], layout: PackedLayout) -> Tensor:
        device, dtype = self._device, self._dtype
        patch_dim = self._model.all_x_embedder[PATCH_KEY].in_features
        shape = (layout.bucket.image_rows, patch_dim)
        if len(items) == 1 and layout.shapes[0].num_patches == shape[0]:
            return patchify(items[0].latents.to(device, dtype))
        patches = torch.zeros(shape, dtype=dtype, device=device)
        for index, item in enumerate(items):
            patches[layout.patch_rows(index)] = patchify(item.latents.to(device, dtype))
        return patches

    def _build_layout(self, layout: PackedLayout) -> _LayoutTensors:
        device = self._device
        is_pad = torch.zeros(layout.bucket.image_rows, 1, dtype=torch.bool)
        for index in range(len(layout.shapes)):
            is_pad[layout.image_pad_rows(index)] = True
        longest = layout.bucket.max_length
        return _LayoutTensors(
            is_image_pad=is_pad.to(device),
            join_index=torch.tensor(layout.join_index(), device=device),
            image=layout_sequences(layout.image_lengths, device, max_length=longest),
            image_item=_item_of_row(layout.image_lengths).to(device),
            joint=layout_sequences(layout.joint_lengths, device, max_length=longest),
            joint_item=_item_of_row(layout.joint_lengths).to(device),
        )


def collect_residuals(items: Sequence[PackedItem], layout: PackedLayout) -> Residuals:
    """Gather by layer what is added to which joint rows."""
    collected: dict[int, list[tuple[slice, Tensor]]] = {}
    for index, item in enumerate(items):
        for layer, residual in item.residuals.items():
            collected.setdefault(layer, []).append((layout.joint_rows(index), residual))
    return collected


def split_velocities(rows: Tensor, layout: PackedLayout) -> list[Tensor]:
    """Turn a forward's [joint rows, 64] into each item's [16, h, w] float32 velocity.

    The sign is flipped, as diffusers' pipeline does.
    """
    return [
        -unpatchify(rows[layout.joint_patch_rows(index)], shape).float()
        for index, shape in enumerate(layout.shapes)
    ]


def patchify(latents: Tensor) -> Tensor:
    """Cut [c, h, w] into [patches, 2 * 2 * c], channels last within a patch."""
    channels, height, width = latents.shape
    grid = latents.view(channels, height // PATCH_SIZE, PATCH_SIZE, width // PATCH_SIZE, PATCH_SIZE)
    return grid.permute(1, 3, 2, 4, 0).reshape(-1, PATCH_SIZE * PATCH_SIZE * channels)


def unpatchify(patches: Tensor, shape: ItemShape) -> Tensor:
    """Put [patches, 2 * 2 * 16] back into [16, h, w]."""
    grid = patches.view(shape.patch_rows, shape.patch_cols, PATCH_SIZE, PATCH_SIZE, LATENT_CHANNELS)
    height, width = shape.patch_rows * PATCH_SIZE, shape.patch_cols * PATCH_SIZE
    return grid.permute(4, 0, 2, 1, 3).reshape(LATENT_CHANNELS, height, width)


def _item_of_row(lengths: Sequence[int]) -> Tensor:
    items = torch.arange(len(lengths), dtype=torch.int32)
    return torch.repeat_interleave(items, torch.tensor(lengths))


def _concatenate(parts: Sequence[Tensor], num_rows: int) -> Tensor:
    missing = num_rows - sum(part.shape[0] for part in parts)
    if not missing and len(parts) == 1:
        return parts[0]
    return torch.cat([*parts, parts[0].new_zeros(missing, *parts[0].shape[1:])])


def _stack(parts: Sequence[Tensor], num_items: int) -> Tensor:
    if len(parts) == num_items == 1:
        return parts[0][None]
    stacked = torch.stack(list(parts))
    missing = num_items - len(parts)
    return torch.cat([stacked, stacked.new_zeros(missing, *stacked.shape[1:])])
