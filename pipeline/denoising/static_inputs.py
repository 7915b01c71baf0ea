"""What a recorded forward reads: tensors at fixed addresses, overwritten before each replay."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Self

from torch import Tensor


@dataclass(frozen=True, eq=False)
class StaticInputs:
    """Base of dataclasses of tensors, nested ones included.

    Satisfies `pipeline.acceleration.graphs.StaticInputs`.
    """

    sources: list[Tensor] = field(default_factory=list, init=False, repr=False)
    """What was copied here last. Held, since only then the same object is the same content."""

    def clone(self) -> Self:
        """Copy every tensor."""
        cloned: Self = _map_tensors(self, Tensor.clone)
        return cloned

    def copy_(self, other: Self) -> None:
        """Overwrite every tensor with another's of the same shape, which nobody may change later.

        Steps have most of their tensors in common: what is there already is not copied again.
        """
        mine, its = _tensors(self), _tensors(other)
        last = self.sources or mine
        for target, source, known in zip(mine, its, last, strict=True):
            if source is not known:
                target.copy_(source)
        self.sources[:] = its


def _tensors(part: Any) -> list[Tensor]:
    if isinstance(part, Tensor):
        return [part]
    if not is_dataclass(part):
        return []
    return [tensor for each in fields(part) for tensor in _tensors(getattr(part, each.name))]


def _map_tensors(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(part, Tensor):
        return change(part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    values = {
        each.name: _map_tensors(getattr(part, each.name), change)
        for each in fields(part)
        if each.init
    }
    return type(part)(**values)
