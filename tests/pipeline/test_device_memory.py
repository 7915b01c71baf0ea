"""A process is held to its part of a card."""

import pytest
import torch

from pipeline.device_memory import cap_memory, to_fraction
from pipeline.errors import PipelineError


def test_the_part_of_a_card_is_its_memorys() -> None:
    assert to_fraction(14.75, 59) == 0.25


def test_more_than_the_card_has_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"memory_gib must be at most the card's 11\.50, got 1"):
        to_fraction(14.75, 11.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_allocation_beyond_the_cap_is_out_of_memory() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    cap_memory(device, 1.0)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2**30 + 2**28, dtype=torch.uint8, device=device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
