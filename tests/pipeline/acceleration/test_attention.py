"""Attention kernels: what is asked for runs, or the reason is given."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.acceleration.attention import build_attention, layout_sequences
from pipeline.errors import AttentionUnavailableError

CPU = torch.device("cpu")


def test_an_item_attends_to_its_own_rows_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 96, 2, 16, generator=generator)
    layout = layout_sequences([32, 64], CPU)

    attended = build_attention("sdpa", CPU)(query, key, value, layout)

    for rows in layout.slices:
        heads_first = [part[rows].transpose(0, 1) for part in (query, key, value)]
        expected = F.scaled_dot_product_attention(*heads_first).transpose(0, 1)
        assert torch.allclose(attended[rows], expected, atol=1e-6)


def test_offsets_are_where_items_start_and_the_last_ends() -> None:
    layout = layout_sequences([32, 64, 96], CPU)

    assert layout.offsets.tolist() == [0, 32, 96, 192]
    assert (layout.num_rows, layout.max_length) == (192, 96)


def test_an_unknown_kernel_is_refused_by_name() -> None:
    with pytest.raises(
        AttentionUnavailableError, match=r"one of sdpa, cudnn, varlen, xformers, got 'magic'"
    ):
        build_attention("magic", CPU)


@pytest.mark.parametrize("name", ["cudnn", "varlen", "xformers"])
def test_a_kernel_of_gpus_is_refused_on_a_cpu(name: str) -> None:
    with pytest.raises(AttentionUnavailableError, match="needs a CUDA device, got cpu"):
        build_attention(name, CPU)
