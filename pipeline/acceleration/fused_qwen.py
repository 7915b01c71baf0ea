"""Qwen3's forward in few kernels, for one prompt at a time on a GPU.

A layer is eight launches and its attention, as `fused_forward` does for the denoiser: query, key
and value in one product, turned in place; output; sum and norm; both halves of the feed-forward in
one product; gate; its second product; and sum with the next layer's norm. A forward is recorded for
every multiple of 32 tokens, since the host launches more slowly than the kernels run.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.acceleration import triton_rows
from pipeline.acceleration.gated_projections import GatedProjection, feed_forward, merge_gated
from pipeline.acceleration.graphs import GraphedForward
from pipeline.acceleration.options import Acceleration, Precision
from pipeline.acceleration.projections import Projection, Rows, merge

TOKEN_MULTIPLE: Final = 32


@dataclass(frozen=True, eq=False)
class _FusedLayer:
    module: Any
    to_qkv: Projection
    to_out: Projection
    to_gate: GatedProjection
    from_gate: Projection


class FusedQwen:
    """The layers of a `Qwen3Model`, without its last norm. One thread owns it.

    Takes the weights of the model's linears away.
    """

    def __init__(
        self, language_model: Any, acceleration: Acceleration, device: torch.device
    ) -> None:
        """Bring the layers to the device, one after another."""
        config = language_model.config
        self.device = device
        self._embed = language_model.embed_tokens
        self._rotary = language_model.rotary_emb
        self._num_heads = int(config.num_attention_heads)
        self._num_key_heads = int(config.num_key_value_heads)
        self._head_dim = int(config.head_dim)
        self._layers = [
            _fuse(layer.to(device), acceleration.precision) for layer in language_model.layers
        ]
        language_model.to(device)
        self._turns_of: dict[int, Tensor] = {}
        self._graphs: GraphedForward[Tensor] | None = None
        if self.device.type == "cuda":
            self._graphs = GraphedForward(self.run)

    @torch.inference_mode()
    def encode(self, token_ids: Tensor) -> Tensor:
        """Return the hidden states, [tokens, dim], of one prompt's [tokens] ids.

        They hold until the next call.
        """
        num_tokens = len(token_ids)
        # Attention is causal, so no token sees the padding at the end.
        padded = F.pad(token_ids, (0, -num_tokens % TOKEN_MULTIPLE)).to(self.device)
        hidden = self.run(padded) if self._graphs is None else self._graphs(padded, len(padded))
        return hidden[:num_tokens]

    def run(self, token_ids: Tensor) -> Tensor:
        """Run all layers over the [rows] ids of a padded prompt."""
        hidden: Tensor = self._embed(token_ids)
        rotary = self._turns(len(token_ids))
        first = self._layers[0]
        hidden, normed = triton_rows.add_and_norm(
            hidden,
            norm=first.module.input_layernorm,
            quantized_to=first.to_qkv.reads,
        )
        for layer, following in zip(self._layers, [*self._layers[1:], None], strict=True):
            hidden, normed = triton_rows.add_and_norm(
                hidden,
                update=layer.to_out(self._attend(layer, normed, rotary)),
                norm=layer.module.post_attention_layernorm,
                quantized_to=layer.to_gate.reads,
            )
            hidden, normed = triton_rows.add_and_norm(
                hidden,
                update=feed_forward(layer.to_gate, layer.from_gate, normed),
                norm=None if following is None else following.module.input_layernorm,
                quantized_to=None if following is None else following.to_qkv.reads,
            )
        return hidden

    def _attend(self, layer: _FusedLayer, normed: Rows, rotary: Tensor) -> Rows:
        module = layer.module.self_attn
        merged = layer.to_qkv(normed)
        triton_rows.rotate_normed_(
            merged,
            rotary,
            module.q_norm,
            module.k_norm,
            num_heads=self._num_heads,
            num_key_heads=self._num_key_heads,
            head_dim=self._head_dim,
            are_halves=True,
        )
        heads = merged.view(len(merged), -1, self._head_dim).transpose(0, 1)[None]
        counts = [self._num_heads, self._num_key_heads, self._num_key_heads]
        query, key, value = torch.split(heads, counts, dim=1)
        attended = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )
        flat = attended[0].transpose(0, 1).flatten(1)
        reads = layer.to_out.reads
        return flat if reads is None else triton_rows.quantize(flat, reads)

    def _turns(self, num_rows: int) -> Tensor:
        """Return cosine and sine, [rows, head_dim / 2, 2] float32, where recordings read them."""
        if num_rows not in self._turns_of:
            self._turns_of[num_rows] = self._compute_turns(num_rows)
        return self._turns_of[num_rows]

    def _compute_turns(self, num_rows: int) -> Tensor:
        positions = torch.arange(num_rows, device=self.device)[None]
        single = torch.empty(0, dtype=torch.float32, device=self.device)
        cosine, sine = (
            table[0, :, : self._head_dim // 2] for table in self._rotary(single, positions)
        )
        return torch.stack([cosine, sine], dim=-1)


def _fuse(layer: Any, precision: Precision) -> _FusedLayer:
    attention, mlp = layer.self_attn, layer.mlp

    def build(*linears: Any) -> Projection:
        return merge(linears, precision, keeps_source=False)

    return _FusedLayer(
        layer,
        build(attention.q_proj, attention.k_proj, attention.v_proj),
        build(attention.o_proj),
        merge_gated(
            (mlp.gate_proj, mlp.up_proj), precision, keeps_source=False, gates_bfloat16=False
        ),
        build(mlp.down_proj),
    )
