"""Packing is allowed where it was measured to change no byte, and only there."""

import torch

from pipeline.acceleration.attention import build_attention
from pipeline.denoising.sameness import linears_of_packed_rows, packs_exactly
from pipeline.denoising.transformer import PackedTransformer
from tests.pipeline.denoising.tiny import build_tiny_transformer

CPU = torch.device("cpu")


class CompanyLinear(torch.nn.Linear):
    """A linear whose rows depend on how many there are, as some libraries' kernels do."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return super().forward(rows) + 1e-7 * rows.shape[0]


def test_linears_of_this_machine_are_told_from_those_that_depend_on_company() -> None:
    plain, company = torch.nn.Linear(64, 64), CompanyLinear(64, 64)

    assert packs_exactly([plain], range(32, 513, 32))
    assert not packs_exactly([plain, company], range(32, 513, 32))


def test_modulation_is_not_among_the_packed_rows() -> None:
    model = build_tiny_transformer()
    modulation = {block.adaLN_modulation[0] for block in model.layers}

    assert not modulation & set(linears_of_packed_rows(model))


def test_a_strict_transformer_gives_items_their_own_forward_where_rows_depend_on_company() -> None:
    model = build_tiny_transformer()
    dim = model.config.dim
    model.layers[0].attention.to_q = CompanyLinear(dim, dim, bias=False)
    attention = build_attention("sdpa", CPU)

    assert not PackedTransformer(model, attention).shares_forwards
    assert PackedTransformer(model, attention, is_strict=False).shares_forwards
