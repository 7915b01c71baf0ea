"""The attention of the VAE's mid block on the whole plane, linear in memory.

It has one head of 512 and sees every latent: at 4096x4096 that is 262,144 tokens, whose
scores would take 128 GiB.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

Softmax = Callable[[Tensor, float, torch.dtype], Tensor]
"""From float32 scores of [rows, columns], a factor before the softmax and the result's dtype."""

SCORE_BYTES: Final = 256 * 2**20
"""Memory of one chunk's float32 scores: on an H200 half of it takes 8 % longer."""


def scaled_softmax(scores: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Return the softmax of `scale * scores` over the rows; the scores' memory is reused."""
    return scores.mul_(scale).softmax(dim=-1).to(dtype)


def attend_in_chunks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    score_bytes: int = SCORE_BYTES,
    softmax: Softmax = scaled_softmax,
) -> Tensor:
    """Attend with a chunk of queries at a time: two matrix products and a float32 softmax.

    No fused kernel is fast for a head of 512, and none of the flash kernels takes it.
    """
    rows = max(1, score_bytes // (4 * key.shape[0]))
    attended = torch.empty_like(query)
    for start in range(0, query.shape[0], rows):
        scores = multiply_scores(query[start : start + rows], key)
        weights = softmax(scores, query.shape[1] ** -0.5, value.dtype)
        torch.mm(weights, value, out=attended[start : start + rows])
    return attended


def attend_plane(attention: Any, hidden: Tensor) -> Tensor:
    """Apply diffusers' `Attention` with its norm and its residual to [1, C, h, w], in chunks."""
    height, width = hidden.shape[-2:]
    rows = attention.group_norm(hidden.flatten(2))[0].T
    query, key, value = (
        projection(rows) for projection in (attention.to_q, attention.to_k, attention.to_v)
    )
    del rows
    attended: Tensor = attention.to_out[0](attend_in_chunks(query, key, value))
    return hidden + attended.T.view(-1, height, width)


def multiply_scores(query: Tensor, key: Tensor) -> Tensor:
    """Multiply into float32, also from bfloat16, where the device can."""
    if query.is_cuda and query.dtype != torch.float32:
        scores: Tensor = torch.mm(query, key.T, out_dtype=torch.float32)
        return scores
    return (query @ key.T).float()
