"""GPU profiles: how much memory a replica may use, and which kernels it runs.

A profile says nothing of speed: that belongs to the accelerator type (`cluster.accelerators`).
"""

from dataclasses import dataclass
from typing import Final

from cluster.errors import PlacementError


@dataclass(frozen=True)
class Kernels:
    """Names that the acceleration layer resolves; they carry no meaning here."""

    attention: str
    precision: str
    compilation: str


@dataclass(frozen=True)
class GpuProfile:
    """One kind of GPU, as a bound on memory and a choice of kernels.

    Raises:
        PlacementError: If the bound is not positive.
    """

    name: str
    memory_gib: float
    """What all replicas on one card may use together, the driver's own share taken off."""
    kernels: Kernels
    has_gpu: bool = True

    def share_gib(self, num_gpus: float) -> float:
        """Return what a replica may use that has `num_gpus` of a card, or several cards."""
        return self.memory_gib * min(1.0, num_gpus or 1.0)

    def __post_init__(self) -> None:
        if self.memory_gib <= 0:
            raise PlacementError(f"memory_gib must be positive, got {self.memory_gib}")


H800: Final = GpuProfile(
    name="h800",
    memory_gib=76.0,
    kernels=Kernels(attention="cudnn", precision="bf16", compilation="graphs"),
)
"""The 80 GB class: H800, H100, H200."""

CONSUMER_16GB: Final = GpuProfile(
    name="consumer-16gb",
    memory_gib=14.75,
    kernels=Kernels(attention="flash", precision="fp8", compilation="graphs"),
)
"""4060 Ti 16G, 4080, 5070 Ti; and 3090, 4090 held to the same bound."""

CPU: Final = GpuProfile(
    name="cpu",
    memory_gib=16.0,
    kernels=Kernels(attention="native", precision="fp32", compilation="none"),
    has_gpu=False,
)

PROFILES: Final = {profile.name: profile for profile in (H800, CONSUMER_16GB, CPU)}


def get_profile(name: str) -> GpuProfile:
    """Look a profile up.

    Raises:
        PlacementError: If there is none of that name.
    """
    if name not in PROFILES:
        raise PlacementError(f"profile must be one of {sorted(PROFILES)}, got {name!r}")
    return PROFILES[name]
