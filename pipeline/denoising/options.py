"""How one replica denoises, by name and number."""

from dataclasses import dataclass, field

from pipeline.acceleration.options import AUTO, AccelerationOptions
from pipeline.denoising.batching import BatchingLimits


@dataclass(frozen=True)
class StepLoopOptions:
    """How one replica denoises."""

    attention: str = AUTO
    """A kernel's name, or `auto`: what was measured to be the fastest that is installed."""
    is_strict: bool = True
    """Whether a picture's bytes are the same whatever it is batched with."""
    limits: BatchingLimits = field(default_factory=BatchingLimits)
    acceleration: AccelerationOptions = field(default_factory=AccelerationOptions)
