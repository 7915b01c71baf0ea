"""GroupNorm whose statistics are gathered over the tiles of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class GroupMoments:
    """Count, mean and sum of squared deviations of each group of channels."""

    count: int
    mean: Tensor
    """[groups]"""
    squares: Tensor
    """[groups]"""

    def to_cpu(self) -> "GroupMoments":
        """Return the moments on the CPU, to be merged or sent."""
        return GroupMoments(self.count, self.mean.cpu(), self.squares.cpu())


def gather_moments(core: Tensor, num_groups: int) -> GroupMoments:
    """Gather the moments of one tile's core, [1, C, h, w], in float32 on its device.

    Deviations are from the tile's own mean: a sum of plain squares would lose what a large mean
    covers.
    """
    grouped = core.float().reshape(num_groups, -1)
    count = grouped.shape[1]
    variance, mean = torch.var_mean(grouped, dim=1, correction=0)
    return GroupMoments(count, mean, variance * count)


def merge_moments(parts: Sequence[GroupMoments]) -> GroupMoments:
    """Merge the moments of all tiles (Chan, Golub and LeVeque 1983), in float64 on the CPU.

    The order is that given, so the result does not depend on which card gathered which part.
    """
    total = sum(part.count for part in parts)
    counts = torch.tensor([part.count for part in parts], dtype=torch.float64)[:, None]
    means = torch.stack([part.mean for part in parts]).double()
    squares = torch.stack([part.squares for part in parts]).double()
    mean = (counts * means).sum(0) / total
    between = (counts * (means - mean) ** 2).sum(0)
    return GroupMoments(total, mean, squares.sum(0) + between)


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """A norm whose statistics are known: `factor * hidden + term`, [C] float32 on the device."""

    factor: Tensor
    term: Tensor

    @classmethod
    def of_norm(cls, norm: nn.GroupNorm, moments: GroupMoments) -> "ChannelMap":
        """Work out `norm` with merged statistics, in float64 on the CPU."""
        weight, bias = norm.weight.detach().double().cpu(), norm.bias.detach().double().cpu()
        inverse = (moments.squares / moments.count + norm.eps).rsqrt()
        per_channel = norm.num_channels // norm.num_groups
        factor = weight * inverse.repeat_interleave(per_channel)
        term = bias - factor * moments.mean.repeat_interleave(per_channel)
        device = norm.weight.device
        return cls(factor.float().to(device), term.float().to(device))
