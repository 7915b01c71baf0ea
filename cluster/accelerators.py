"""How fast each accelerator type denoises, and where the number comes from.

Names are those that Ray puts into the label `ray.io/accelerator-type`. Every rate is a first guess:
`cluster.rates` corrects it for each replica by what the replica reports.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cluster.cost import UNIT_TOKENS, Z_IMAGE, ForwardCost
from cluster.errors import CapacityError

FP8_GAIN: Final = 789 / 556
"""Eight steps at 1024x1024 on one H200 with CUDA graphs, in ms: bf16 over fp8."""

_H200_TFLOPS: Final = 8 * 55.6 / 0.789
_H200_DATASHEET_TFLOPS: Final = 989.0
DATASHEET_SHARE: Final = _H200_TFLOPS / _H200_DATASHEET_TFLOPS
"""What an H200 sustains of its datasheet's dense bf16 (57 %); taken for cards nobody measured."""


class RateSource(StrEnum):
    """Where a rate comes from."""

    MEASURED = "measured"
    """On this model at its true size."""
    PUBLISHED = "published"
    """By others, end to end, so that the denoiser alone is no slower."""
    DATASHEET = "datasheet"
    """An estimate: the maker's dense bf16 figure times `DATASHEET_SHARE`."""


class Precision(StrEnum):
    """What the transformer's linears compute in."""

    BF16 = "bf16"
    FP8 = "fp8"
    FP32 = "fp32"


@dataclass(frozen=True)
class Accelerator:
    """One accelerator type."""

    name: str
    sustained_tflops: float
    """At bf16 over a whole forward; at fp32 for the CPU."""
    source: RateSource
    has_fp8: bool = True

    def units_per_s(self, precision: Precision, forward: ForwardCost = Z_IMAGE) -> float:
        """Return cost units of a model a second, of one replica that has the card to itself.

        Raises:
            CapacityError: If the accelerator cannot compute in that precision.
        """
        if precision is Precision.FP8 and not self.has_fp8:
            raise CapacityError(f"precision fp8 needs fp8 tensor cores, got {self.name}")
        gain = FP8_GAIN if precision is Precision.FP8 else 1.0
        return gain * self.sustained_tflops / forward.tflop(UNIT_TOKENS)


def _from_datasheet(name: str, dense_tflops: float, *, has_fp8: bool = True) -> Accelerator:
    sustained = dense_tflops * DATASHEET_SHARE
    return Accelerator(name, sustained, RateSource.DATASHEET, has_fp8=has_fp8)


_KNOWN: Final = (
    Accelerator("H200", _H200_TFLOPS, RateSource.MEASURED),
    # SGLang Diffusion's CI: nine forwards at 1024x1024 in 906 ms, end to end.
    Accelerator("H100", 9 * 55.6 / 0.906, RateSource.PUBLISHED),
    # The model's article: eight forwards at 1024x1024 in about 820 ms, end to end.
    Accelerator("H800", 8 * 55.6 / 0.820, RateSource.PUBLISHED),
    # Dense bf16 with fp32 accumulation, from NVIDIA's Ampere, Ada and Blackwell whitepapers.
    _from_datasheet("GeForce-RTX-5070-Ti", 87.9),
    _from_datasheet("GeForce-RTX-4090", 165.2),
    _from_datasheet("GeForce-RTX-4080", 97.5),
    _from_datasheet("GeForce-RTX-4060-Ti", 44.1),
    _from_datasheet("GeForce-RTX-3090", 71.0, has_fp8=False),
    # Two desktop cores of 50 GFLOP/s each in fp32, at half of it.
    Accelerator("CPU", 0.05, RateSource.DATASHEET, has_fp8=False),
)

ACCELERATORS: Final = {accelerator.name: accelerator for accelerator in _KNOWN}


def get_accelerator(name: str) -> Accelerator:
    """Look an accelerator type up.

    Raises:
        CapacityError: If its rate is not known.
    """
    if name not in ACCELERATORS:
        raise CapacityError(f"accelerator must be one of {sorted(ACCELERATORS)}, got {name!r}")
    return ACCELERATORS[name]
