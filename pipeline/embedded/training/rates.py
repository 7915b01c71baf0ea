"""Learning rates over a run, as shares of the highest."""

import math


def cosine_rate(step: int, steps: int, *, warm_steps: int = 100) -> float:
    """Rise for `warm_steps`, then fall to zero along a cosine."""
    warm = min(1.0, (step + 1) / warm_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def trapezoid_rate(
    step: int, progress: float, *, warm_steps: int = 200, decay_share: float = 0.5
) -> float:
    """Rise for `warm_steps`, stay, and fall in a line to zero over the last `decay_share`.

    Args:
        step: Steps taken.
        progress: How far the run has come, 0 to 1.
        warm_steps: Of the whole run.
        decay_share: Of the whole run.
    """
    warm = min(1.0, (step + 1) / warm_steps)
    return min(warm, max(0.0, (1 - progress) / decay_share))
