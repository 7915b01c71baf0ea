"""How a denoiser replica computes, by name; what a machine cannot run is refused at start."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

import torch

from pipeline.errors import AccelerationUnavailableError

AUTO: Final = "auto"

_MEASURED: Final = ((9, 0),)
"""Compute capabilities of the GPUs whose fused blocks were measured."""

_Name = TypeVar("_Name", bound=StrEnum)


class BlockKernels(StrEnum):
    """What runs the transformer's blocks."""

    MODULES = "modules"
    """The model's own linears, row operations fused on a GPU."""
    FUSED = "fused"
    """Merged projections and kernels that write what the next product reads."""


class Precision(StrEnum):
    """What the blocks multiply."""

    BFLOAT16 = "bfloat16"
    """That of the weights: float32 on a CPU."""
    FLOAT8 = "float8"
    """e4m3 weights and inputs with a scale a row, attention and the rest in bfloat16."""
    INT8 = "int8"
    """8-bit integers as weights and inputs with a scale a row, attention and the rest in bfloat16:
    less than half of the error of float8, at its speed."""
    INT8_WEIGHTS = "int8_weights"
    """8-bit integers as weights, a scale a row, and bfloat16 products: for memory, on any GPU."""


_PRODUCTS_NEED: Final = {Precision.FLOAT8: (8, 9), Precision.INT8: (9, 0)}
"""The least compute capability that multiplies in 8 bits."""


KERNELS_REVISION: Final = 4
"""Counts the changes of what runs on GPUs after which the same request has other bytes."""


@dataclass(frozen=True)
class AccelerationOptions:
    """The names in the configuration."""

    kernels: str = AUTO
    precision: str = AUTO
    """`auto` is never of 8 bits, which changes the pictures."""
    bfloat16_layers: tuple[str, ...] = ()
    """With 8 bits: patterns of the modules that stay in bfloat16, as `layers.0.*.w2`."""


@dataclass(frozen=True)
class Acceleration:
    """What was chosen for one device."""

    kernels: BlockKernels
    precision: Precision
    bfloat16_layers: tuple[str, ...] = ()

    def choose_load_device(self, device: torch.device) -> torch.device:
        """Say where weights are read to: what is made smaller on the way need not fit before."""
        return device if self.precision is Precision.BFLOAT16 else torch.device("cpu")


def choose_acceleration(options: AccelerationOptions, device: torch.device) -> Acceleration:
    """Choose where `auto` may, and check the rest.

    `auto` is fused blocks on the GPUs where they were measured to be faster, which are Hopper's
    (`tests/benchmarks/hopper.py`), and the model's own modules elsewhere.

    Raises:
        AccelerationUnavailableError: If a name is unknown, or this machine cannot run the option.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose_for_capability(options, capability)


def choose_for_capability(
    options: AccelerationOptions, capability: tuple[int, int] | None
) -> Acceleration:
    """Choose for a GPU's compute capability; None is a CPU.

    Raises:
        AccelerationUnavailableError: If a name is unknown, or such a machine cannot run the option.
    """
    precision = Precision.BFLOAT16
    if options.precision != AUTO:
        precision = _parse("precision", options.precision, tuple(Precision))
    if options.kernels == AUTO:
        kernels = BlockKernels.FUSED if capability in _MEASURED else BlockKernels.MODULES
    else:
        kernels = _parse("kernels", options.kernels, tuple(BlockKernels))
    if kernels is BlockKernels.FUSED and (capability is None or capability < (8, 0)):
        raise AccelerationUnavailableError(
            f"kernels 'fused' needs a GPU of compute capability 8.0, got {_spell(capability)}"
        )
    if precision is not Precision.BFLOAT16 and kernels is not BlockKernels.FUSED:
        raise AccelerationUnavailableError(
            f"precision {str(precision)!r} needs kernels 'fused', got {str(kernels)!r}"
        )
    least = _PRODUCTS_NEED.get(precision)
    if least is not None and (capability is None or capability < least):
        raise AccelerationUnavailableError(
            f"precision {str(precision)!r} needs a GPU of compute capability {_spell(least)}, "
            f"got {_spell(capability)}; 'int8_weights' needs 8.0"
        )
    return Acceleration(kernels, precision, options.bfloat16_layers)


def _parse(option: str, value: str, names: tuple[_Name, ...]) -> _Name:
    for name in names:
        if name == value:
            return name
    raise AccelerationUnavailableError(f"{option} must be one of {', '.join(names)}, got {value!r}")


def _spell(capability: tuple[int, int] | None) -> str:
    return "a CPU" if capability is None else ".".join(map(str, capability))
