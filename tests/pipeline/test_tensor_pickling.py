"""Tensors cross a process as they are, whatever they are."""

import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pipeline.request import PromptEncoding
from pipeline.tensor_pickling import PicklesTensors


@dataclass(frozen=True)
class Message(PicklesTensors):
    tensor: Tensor
    name: str = "message"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (1, 16, 8, 8), (0, 4)])
def test_a_tensor_arrives_as_it_was_sent(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    sent = Message((100 * torch.randn(shape)).to(dtype), "first")

    arrived = pickle.loads(pickle.dumps(sent))

    assert (arrived.tensor.dtype, arrived.tensor.shape) == (dtype, torch.Size(shape))
    assert torch.equal(arrived.tensor, sent.tensor)
    assert arrived.name == "first"


def test_a_view_arrives_without_what_it_is_a_view_of() -> None:
    latents = torch.randn(4, 1000, 6)
    view = latents[:, 500, :].T

    message = pickle.dumps(Message(view))

    assert torch.equal(pickle.loads(message).tensor, view)
    assert len(message) < 1000


def test_what_arrives_in_memory_that_is_read_only_may_be_written_to() -> None:
    buffers: list[pickle.PickleBuffer] = []
    message = pickle.dumps(Message(torch.ones(8)), protocol=5, buffer_callback=buffers.append)
    read_only = [bytes(buffer.raw()) for buffer in buffers]

    arrived = pickle.loads(message, buffers=read_only)
    arrived.tensor.zero_()

    assert read_only == [torch.ones(8).numpy().tobytes()]


def test_a_prompt_is_sent_without_torchs_own_pickling() -> None:
    assert b"torch.storage" not in pickle.dumps(PromptEncoding(torch.randn(3, 4)))
