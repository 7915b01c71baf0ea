"""One optimizer over flat buffers: float32 masters, moments and average of a low-precision model.

Matrices inside blocks take orthogonalised momentum (Muon, K. Jordan et al., 2024, with the update
scaled to AdamW's size as in arXiv 2502.16982, section 2.2); everything else takes Adam.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS: Final = 5
_ADAMW_UPDATE_SIZE: Final = 0.2


@dataclass(frozen=True)
class OptimizerSettings:
    """What does not change during a run."""

    momentum: float = 0.95
    adam_share: float = 0.4
    """Adam's learning rate, as a share of the matrices'."""
    adam_betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    """Of matrices only."""
    average_decay: float = 0.999
    max_gradient_norm: float = 1.0


@dataclass(frozen=True)
class _MatrixGroup:
    start: int
    shape: tuple[int, int, int]
    """Matrices, rows, columns."""

    def view(self, flat: Tensor) -> Tensor:
        count, rows, columns = self.shape
        return flat[self.start : self.start + count * rows * columns].view(self.shape)


class FlatOptimizer:
    """Trains parameters of any precision through float32 masters.

    Buffers are laid out matrices first, grouped by shape, so that a group is one batched product.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        settings: OptimizerSettings,
        average_gradients: Callable[[Tensor], None],
    ) -> None:
        ordered = sorted(matrices, key=lambda parameter: tuple(parameter.shape))
        self._parameters = [*ordered, *others]
        self._settings = settings
        self._average_gradients = average_gradients
        self._groups, self._tail = _lay_out(ordered)
        self._master = _flatten(p.detach() for p in self._parameters)
        self._average = self._master.clone()
        self._first = torch.zeros_like(self._master)
        self._second = torch.zeros_like(self._master[self._tail :])
        self._step = 0
        self._publish(self._master)

    def step(self, learning_rate: float) -> Tensor:
        """Apply the gradients, clear them, and return their norm before clipping."""
        gradient = _flatten(p.grad for p in self._parameters)
        self._average_gradients(gradient)
        norm: Tensor = torch.linalg.vector_norm(gradient)
        gradient *= (self._settings.max_gradient_norm / (norm + 1e-6)).clamp(max=1.0)
        self._step += 1
        self._step_matrices(gradient, learning_rate)
        rate = learning_rate * (self._settings.adam_share if self._groups else 1.0)
        self._step_others(gradient[self._tail :], rate)
        warm = (1 + self._step) / (10 + self._step)
        self._average.lerp_(self._master, 1 - min(self._settings.average_decay, warm))
        self._publish(self._master)
        for parameter in self._parameters:
            parameter.grad = None
        return norm

    def publish_average(self) -> None:
        """Put the average of the masters into the model; the next step puts the masters back."""
        self._publish(self._average)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "master": self._master,
            "average": self._average,
            "first": self._first,
            "second": self._second,
            "step": self._step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for name in ("master", "average", "first", "second"):
            getattr(self, f"_{name}").copy_(state[name])
        self._step = state["step"]
        self._publish(self._master)

    def _step_matrices(self, gradient: Tensor, learning_rate: float) -> None:
        momentum = self._settings.momentum
        head = slice(0, self._tail)
        self._first[head].lerp_(gradient[head], 1 - momentum)
        looked_ahead = gradient[head].lerp(self._first[head], momentum)
        for group in self._groups:
            update = orthogonalise(group.view(looked_ahead))
            master = group.view(self._master)
            master.mul_(1 - learning_rate * self._settings.weight_decay)
            scale = _ADAMW_UPDATE_SIZE * max(group.shape[1:]) ** 0.5
            master.sub_(update.float(), alpha=learning_rate * scale)

    def _step_others(self, gradient: Tensor, learning_rate: float) -> None:
        beta1, beta2 = self._settings.adam_betas
        first, second = self._first[self._tail :], self._second
        first.lerp_(gradient, 1 - beta1)
        second.lerp_(gradient.square(), 1 - beta2)
        corrected = (second / (1 - beta2**self._step)).sqrt_().add_(1e-8)
        rate = learning_rate / (1 - beta1**self._step)
        self._master[self._tail :].addcdiv_(first, corrected, value=-rate)

    @torch.no_grad()
    def _publish(self, flat: Tensor) -> None:
        sizes = [parameter.numel() for parameter in self._parameters]
        shaped = [
            piece.view_as(parameter)
            for piece, parameter in zip(torch.split(flat, sizes), self._parameters, strict=True)
        ]
        torch._foreach_copy_([parameter.data for parameter in self._parameters], shaped)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring the singular values of [count, rows, columns] near 1, by Newton-Schulz.

    In bfloat16, but in float32 on a CPU, where that is the faster one.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.mT if is_tall else x
    return orthogonal


def _lay_out(ordered: list[nn.Parameter]) -> tuple[list[_MatrixGroup], int]:
    groups, start = [], 0
    for shape, members in groupby(ordered, key=lambda parameter: tuple(parameter.shape)):
        count = len(list(members))
        groups.append(_MatrixGroup(start, (count, shape[0], shape[1])))
        start += count * shape[0] * shape[1]
    return groups, start


def _flatten(tensors: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([tensor.flatten().float() for tensor in tensors if tensor is not None])
