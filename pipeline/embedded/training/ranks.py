"""The processes of a training run, one a GPU, as `torchrun` starts them; one without it."""

import os
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process's place among the others."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def average(self, tensor: Tensor) -> None:
        """Average a tensor over all processes, in place."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.AVG)

    def agree(self, flag: bool) -> bool:
        """Say whether `flag` holds on the first process, on all of them at once."""
        if self.count == 1:
            return flag
        tensor = torch.tensor([flag], dtype=torch.int32, device=self.device)
        torch.distributed.broadcast(tensor, src=0)
        return bool(tensor.item())

    def share(self, value: float) -> float:
        """Return the first process's value on all of them at once."""
        if self.count == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(tensor, src=0)
        return float(tensor.item())


def join() -> Ranks:
    """Join the run that `torchrun` describes in the environment."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available():
        return Ranks(0, 1, torch.device("cpu"))
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    if count > 1:
        torch.distributed.init_process_group("nccl", device_id=device)
    return Ranks(rank, count, device)
