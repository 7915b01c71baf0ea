"""`ZImageTransformer2DModel`'s forward for a batch of one size, without lists and without masks.

The class takes a list of pictures and pads each by itself. Training has large batches in which all
pictures have one size and all captions one padded length, so the same arithmetic, over the same
weights, is one batched tensor program: complex numbers are written out, and each block is one pure
function, which compiles once for all layers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock
from torch import Tensor

SEQUENCE_MULTIPLE: Final = 32
"""Captions and pictures are padded to a multiple of this with learned tokens."""

_PATCH: Final = 2
_ALIGNMENT: Final = 8
"""Fast matrix products want rows of 16 bytes; the class's 682 hidden units are
padded with zeros."""

_NORM_EPSILON: Final = 1e-5


class BlockWeights(NamedTuple):
    """The tensors of one `ZImageTransformerBlock`, but for its modulation."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    norm_query: Tensor
    norm_key: Tensor
    gate: Tensor
    down: Tensor
    up: Tensor
    norms: tuple[Tensor, Tensor, Tensor, Tensor]
    """Before and after attention, before and after the feed-forward."""


class Rotation(NamedTuple):
    """Cosines and sines of RoPE, [tokens, 1, head_dim / 2] each."""

    cos: Tensor
    sin: Tensor


Block = Callable[[Tensor, Rotation, Tensor, BlockWeights], Tensor]


def run_block(x: Tensor, rotation: Rotation, modulation: Tensor, weights: BlockWeights) -> Tensor:
    """Run one block on [B, tokens, dim], modulated by [B, 1, 4 * dim]."""
    scale_attention, gate_attention, scale_forward, gate_forward = modulation.chunk(4, dim=2)
    norms = weights.norms
    attended = _attend(_normalise(x, norms[0]) * scale_attention, rotation, weights)
    x = x + gate_attention * _normalise(attended, norms[1])
    hidden = _normalise(x, norms[2]) * scale_forward
    padding = -weights.gate.shape[0] % _ALIGNMENT
    gate_and_up = [F.pad(weight, (0, 0, 0, padding)) for weight in (weights.gate, weights.up)]
    gate, up = F.linear(hidden, torch.cat(gate_and_up)).chunk(2, dim=2)
    hidden = F.linear(F.silu(gate) * up, F.pad(weights.down, (0, padding)))
    return x + gate_forward * _normalise(hidden, norms[3])


def _attend(x: Tensor, rotation: Rotation, weights: BlockWeights) -> Tensor:
    heads = (x.shape[0], x.shape[1], -1, rotation.cos.shape[-1] * 2)
    # One product for all three reads the input once, and so does its gradient.
    projection = torch.cat([weights.query, weights.key, weights.value])
    query, key, value = (part.view(heads) for part in F.linear(x, projection).chunk(3, dim=2))
    query = _rotate(_normalise(query, weights.norm_query), rotation)
    key = _rotate(_normalise(key, weights.norm_key), rotation)
    attended = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    return F.linear(attended.transpose(1, 2).flatten(2), weights.out)


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    real, imaginary = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)
    rotated = torch.stack(
        [
            real * rotation.cos - imaginary * rotation.sin,
            real * rotation.sin + imaginary * rotation.cos,
        ],
        dim=-1,
    )
    return rotated.flatten(-2).to(x.dtype)


def _normalise(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, _NORM_EPSILON)


@dataclass
class BatchedTransformer:
    """Runs the weights of a `ZImageTransformer2DModel` on batches of one shape."""

    transformer: ZImageTransformer2DModel
    run_block: Block = run_block
    _rotations: dict[tuple[int, ...], tuple[Rotation, Rotation]] = field(default_factory=dict)

    def __call__(
        self,
        latents: Tensor,
        model_time: Tensor,
        prompt_embeds: Tensor,
        lengths: Tensor,
        origin: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """Predict the velocity with its sign flipped, like the class.

        Args:
            latents: [B, 16, h, w].
            model_time: [B], 1 - sigma.
            prompt_embeds: [B, L, dim], L a multiple of 32.
            lengths: [B], tokens of each prompt; what is beyond counts as padding.
            origin: Row and column of the first patch in a larger picture.
        """
        height, width = latents.shape[2] // _PATCH, latents.shape[3] // _PATCH
        num_patches = height * width
        image_rotation, caption_rotation = self._rotate_for(
            height, width, prompt_embeds.shape[1], origin
        )
        conditioning = self.transformer.t_embedder(model_time * self.transformer.t_scale)
        conditioning = conditioning.to(latents.dtype)
        x = self._embed_image(latents)
        for block in self.transformer.noise_refiner:
            x = self._run(block, x, image_rotation, conditioning)
        caption = self._embed_caption(prompt_embeds, lengths)
        for block in self.transformer.context_refiner:
            caption = self._run(block, caption, caption_rotation, None)
        unified = torch.cat([x, caption], dim=1)
        rotation = Rotation(
            torch.cat([image_rotation.cos, caption_rotation.cos]),
            torch.cat([image_rotation.sin, caption_rotation.sin]),
        )
        for block in self.transformer.layers:
            unified = self._run(block, unified, rotation, conditioning)
        final = self.transformer.all_final_layer["2-1"]
        patches = final(unified[:, :num_patches], c=conditioning)
        return _unpatchify(patches, height, width)

    def _embed_image(self, latents: Tensor) -> Tensor:
        x = self.transformer.all_x_embedder["2-1"](_patchify(latents))
        padding = -x.shape[1] % SEQUENCE_MULTIPLE
        pad = self.transformer.x_pad_token.expand(x.shape[0], padding, -1)
        return torch.cat([x, pad], dim=1)

    def _embed_caption(self, prompt_embeds: Tensor, lengths: Tensor) -> Tensor:
        caption = self.transformer.cap_embedder(prompt_embeds)
        places = torch.arange(caption.shape[1], device=caption.device)
        is_padding = (places[None] >= lengths[:, None])[..., None]
        return torch.where(is_padding, self.transformer.cap_pad_token, caption)

    def _run(
        self,
        block: ZImageTransformerBlock,
        x: Tensor,
        rotation: Rotation,
        conditioning: Tensor | None,
    ) -> Tensor:
        if conditioning is None:
            unmodulated = x.new_ones(x.shape[0], 1, 4 * x.shape[2])
            _mark_dynamic(x, rotation, unmodulated)
            return self.run_block(x, rotation, unmodulated, _weights_of(block))
        raw = block.adaLN_modulation(conditioning)[:, None].unflatten(2, (4, -1))
        scale_attention, gate_attention, scale_forward, gate_forward = raw.unbind(2)
        modulation = torch.cat(
            [1 + scale_attention, gate_attention.tanh(), 1 + scale_forward, gate_forward.tanh()],
            dim=2,
        )
        _mark_dynamic(x, rotation, modulation)
        return self.run_block(x, rotation, modulation, _weights_of(block))

    def _rotate_for(
        self, height: int, width: int, length: int, origin: tuple[int, int]
    ) -> tuple[Rotation, Rotation]:
        """Return the rotations of the padded picture and of the padded caption."""
        key = (height, width, length, *origin)
        if key not in self._rotations:
            device = self.transformer.x_pad_token.device
            image = _image_positions(height, width, length + 1, origin)
            caption = torch.zeros(length, 3, dtype=torch.int32)
            caption[:, 0] = torch.arange(1, length + 1)
            self._rotations[key] = (
                self._rotation_of(image.to(device)),
                self._rotation_of(caption.to(device)),
            )
        return self._rotations[key]

    def _rotation_of(self, positions: Tensor) -> Rotation:
        turns = self.transformer.rope_embedder(positions)[:, None]
        return Rotation(turns.real.contiguous(), turns.imag.contiguous())


def _image_positions(height: int, width: int, frame: int, origin: tuple[int, int]) -> Tensor:
    """Return [tokens, 3]: frame, row and column of each patch, zeros for padding."""
    sides = (
        torch.arange(side) + first for side, first in zip((height, width), origin, strict=True)
    )
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    places = torch.stack([torch.full_like(rows, frame), rows, columns], dim=-1).flatten(0, 1)
    return F.pad(places, (0, 0, 0, -len(places) % SEQUENCE_MULTIPLE)).int()


def _patchify(latents: Tensor) -> Tensor:
    """Cut [B, C, h, w] into [B, patches, rows * columns * C] of 2x2."""
    batch, channels, height, width = latents.shape
    grid = (batch, channels, height // _PATCH, _PATCH, width // _PATCH, _PATCH)
    return latents.reshape(grid).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _unpatchify(patches: Tensor, height: int, width: int) -> Tensor:
    cut = patches.reshape(patches.shape[0], height, width, _PATCH, _PATCH, -1)
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def _mark_dynamic(x: Tensor, rotation: Rotation, modulation: Tensor) -> None:
    """Let one compiled block serve every batch size and sequence length, and no other change."""
    torch._dynamo.mark_dynamic(x, (0, 1))
    torch._dynamo.mark_dynamic(modulation, 0)
    for table in rotation:
        torch._dynamo.mark_dynamic(table, 0)


def _weights_of(block: ZImageTransformerBlock) -> BlockWeights:
    attention, forward = block.attention, block.feed_forward
    return BlockWeights(
        attention.to_q.weight,
        attention.to_k.weight,
        attention.to_v.weight,
        attention.to_out[0].weight,
        attention.norm_q.weight,
        attention.norm_k.weight,
        forward.w1.weight,
        forward.w2.weight,
        forward.w3.weight,
        (
            block.attention_norm1.weight,
            block.attention_norm2.weight,
            block.ffn_norm1.weight,
            block.ffn_norm2.weight,
        ),
    )
