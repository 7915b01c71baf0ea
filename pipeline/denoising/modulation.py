"""Scales and gates of every block, which depend on the timestep alone."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Modulation:
    """What one timestep does to the blocks and to the final layer."""

    blocks: Tensor
    """[blocks, 4, dim]: 1 + scale and tanh(gate), of attention and of the feed-forward.

    The refiner's blocks come first.
    """
    final: Tensor
    """[dim]: 1 + scale."""

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return self.blocks.nbytes + self.final.nbytes


def compute_modulation(model: Any, final_layer: Any, model_time: float) -> Modulation:
    """Compute the modulation of one timestep.

    One row at a time always: a linear of one row takes another kernel than a linear of several, so
    computing several requests' modulation together would change their bytes.
    """
    time = torch.tensor([model_time], dtype=torch.float32, device=model.device)
    embedding = model.t_embedder(time * model.t_scale).to(model.dtype)
    blocks = [_modulate(block, embedding) for block in (*model.noise_refiner, *model.layers)]
    final = 1.0 + final_layer.adaLN_modulation(embedding)
    return Modulation(torch.stack(blocks), final[0])


def _modulate(block: Any, embedding: Tensor) -> Tensor:
    scale_msa, gate_msa, scale_mlp, gate_mlp = block.adaLN_modulation(embedding).chunk(4, dim=1)
    parts = (1.0 + scale_msa, gate_msa.tanh(), 1.0 + scale_mlp, gate_mlp.tanh())
    return torch.cat(parts)
