"""`Qwen3Model`'s forward for right-padded captions, each layer one pure function that compiles.

Attention is causal and nothing reads what follows a caption, so padding needs no mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3Model

_NORM_EPSILON: Final = 1e-6


class LayerWeights(NamedTuple):
    """The tensors of one decoder layer."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    norm_query: Tensor
    norm_key: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    norm_attention: Tensor
    norm_forward: Tensor


Layer = Callable[[Tensor, Tensor, Tensor, LayerWeights], Tensor]


def run_layer(x: Tensor, cos: Tensor, sin: Tensor, weights: LayerWeights) -> Tensor:
    """Run one layer on [B, tokens, dim]; `cos` and `sin` are [tokens, 1, head_dim]."""
    hidden = _normalise(x, weights.norm_attention)
    heads = (x.shape[0], x.shape[1], -1, cos.shape[-1])
    query = _normalise(F.linear(hidden, weights.query).view(heads), weights.norm_query)
    key = _normalise(F.linear(hidden, weights.key).view(heads), weights.norm_key)
    value = F.linear(hidden, weights.value).view(heads)
    attended = F.scaled_dot_product_attention(
        _rotate(query, cos, sin).transpose(1, 2),
        _rotate(key, cos, sin).transpose(1, 2),
        value.transpose(1, 2),
        is_causal=True,
    )
    x = x + F.linear(attended.transpose(1, 2).flatten(2), weights.out)
    hidden = _normalise(x, weights.norm_forward)
    hidden = F.silu(F.linear(hidden, weights.gate)) * F.linear(hidden, weights.up)
    return x + F.linear(hidden, weights.down)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _normalise(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, _NORM_EPSILON)


@dataclass(frozen=True)
class BatchedEncoder:
    """Runs the weights of a `Qwen3Model` that ends where Z-Image reads it."""

    text_encoder: Qwen3Model
    run_layer: Layer = run_layer

    def __call__(self, token_ids: Tensor) -> Tensor:
        """Return the last hidden state [B, L, dim]; past a caption's end it means nothing."""
        x: Tensor = self.text_encoder.embed_tokens(token_ids)
        places = torch.arange(token_ids.shape[1], device=token_ids.device)[None]
        cos, sin = (table[0, :, None] for table in self.text_encoder.rotary_emb(x, places))
        torch._dynamo.mark_dynamic(x, (0, 1))
        for table in (cos, sin):
            torch._dynamo.mark_dynamic(table, 0)
        for layer in self.text_encoder.layers:
            x = self.run_layer(x, cos, sin, _weights_of(layer))
            torch._dynamo.mark_dynamic(x, (0, 1))
        return x


def _weights_of(layer: Any) -> LayerWeights:
    attention, forward = layer.self_attn, layer.mlp
    return LayerWeights(
        attention.q_proj.weight,
        attention.k_proj.weight,
        attention.v_proj.weight,
        attention.o_proj.weight,
        attention.q_norm.weight,
        attention.k_norm.weight,
        forward.gate_proj.weight,
        forward.up_proj.weight,
        forward.down_proj.weight,
        layer.input_layernorm.weight,
        layer.post_attention_layernorm.weight,
    )
