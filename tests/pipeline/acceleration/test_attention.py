"""Attention kernels: what is asked for runs, or the reason is given."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.acceleration.attention import (
    AttentionChoice,
    build_attention,
    choose_attention,
    choose_for_capability,
    layout_sequences,
)
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
        AttentionUnavailableError,
        match=r"one of sdpa, cudnn, flash4, varlen, xformers, got 'magic'",
    ):
        build_attention("magic", CPU)


@pytest.mark.parametrize("name", ["cudnn", "flash4", "varlen", "xformers"])
def test_a_kernel_of_gpus_is_refused_on_a_cpu(name: str) -> None:
    with pytest.raises(AttentionUnavailableError, match="needs a CUDA device, got cpu"):
        build_attention(name, CPU)


@pytest.mark.parametrize(
    ("capability", "has_flash4", "packed", "solo"),
    [
        (None, True, "sdpa", "sdpa"),
        ((8, 9), True, "varlen", "cudnn"),
        ((9, 0), False, "varlen", "cudnn"),
        ((9, 0), True, "flash4", "flash4"),
    ],
)
def test_auto_takes_what_was_measured_to_be_fastest(
    capability: tuple[int, int] | None, has_flash4: bool, packed: str, solo: str
) -> None:
    chosen = choose_for_capability("auto", capability, has_flash4=has_flash4)

    assert chosen == AttentionChoice(packed, solo)


def test_a_name_stands_for_itself_and_is_part_of_the_fingerprint() -> None:
    assert choose_attention("varlen", CPU).identify() == "varlen"
    assert AttentionChoice("varlen", "cudnn").identify() == "varlen+cudnn"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# FlashAttention 4 uses names that its compiler is about to drop.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["flash4", "varlen"])
def test_a_packed_kernel_gives_each_item_what_it_gets_alone(name: str) -> None:
    if name == "flash4":
        pytest.importorskip("flash_attn.cute", reason="FlashAttention 4 is an optional dependency")
    device = torch.device("cuda")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(480, 3, 4, 128, generator=generator).to(device, torch.bfloat16)
    query, key, value = rows.unbind(1)
    kernel = build_attention(name, device)

    packed = layout_sequences([96, 384], device)
    together = kernel(query, key, value, packed)

    for part in packed.slices:
        mine = query[part], key[part], value[part]
        alone = layout_sequences([mine[0].shape[0]], device)
        assert torch.equal(together[part], kernel(*mine, alone))
        dense = build_attention("sdpa", device)(*mine, alone)
        assert torch.allclose(together[part], dense, atol=2e-2)
