"""How many text encoders and VAE decoders a trace needs, each on a big card of its own."""

from typing import Final

import numpy as np

from cluster.scaling import ScalingPolicy
from deployments.simulator.plans import StagePlan
from deployments.simulator.traces import Trace

ENCODE_S: Final = 0.010
"""Qwen3-4B with CUDA graphs at 512 tokens on an H200."""
DECODE_PICTURE_S: Final = 0.005
DECODE_MEGAPIXEL_S: Final = 0.028
"""The VAE decoder, channels last and compiled, on an H200."""
PRICE_PER_HOUR: Final = 2.50
UTILIZATION: Final = 0.6
"""Stages of milliseconds are cheap beside the denoisers that would wait for them."""
WINDOW_S: Final = 10.0


def plan_stages(trace: Trace, *, is_elastic: bool) -> tuple[StagePlan, StagePlan]:
    """Plan both stages.

    Args:
        trace: The load.
        is_elastic: Start with what the first window needs, and follow the denoisers; otherwise
            stand at what the busiest window needs.
    """
    per_s = count_by_window(trace) / WINDOW_S
    least_per_s, most_per_s = float(per_s[0]) if is_elastic else per_s.max(), per_s.max()
    weights = np.bincount(trace.kind_of, minlength=len(trace.kinds))
    pixels = [facts.height * facts.width for facts in trace.kinds]
    megapixels = float(np.average(pixels, weights=weights)) / 1024**2
    decode_s = DECODE_PICTURE_S + DECODE_MEGAPIXEL_S * megapixels
    return (
        StagePlan(
            "text encoder",
            ENCODE_S,
            0.0,
            PRICE_PER_HOUR,
            _bounds(least_per_s * ENCODE_S, most_per_s * ENCODE_S),
        ),
        StagePlan(
            "VAE decoder",
            DECODE_PICTURE_S,
            DECODE_MEGAPIXEL_S,
            PRICE_PER_HOUR,
            _bounds(least_per_s * decode_s, most_per_s * decode_s),
        ),
    )


def _bounds(least_busy: float, most_busy: float) -> ScalingPolicy:
    least, most = (int(busy / UTILIZATION) + 1 for busy in (least_busy, most_busy))
    return ScalingPolicy(least, max(least, most), target_utilization=UTILIZATION)


def count_by_window(trace: Trace) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Count the arrivals of each window."""
    return np.bincount((trace.times_s // WINDOW_S).astype(np.int64), minlength=1)
