"""What a call takes beside its denoising: encoding, decoding, storing, and the way between."""

from typing import Final

from cluster.rates import ReplicaRate, guess_rate

_UNIT_PIXELS: Final = 512 * 512


class OtherStages:
    """Learns the seconds by the number of pixels, from calls that were drawn."""

    def __init__(self) -> None:
        self._rate: ReplicaRate | None = None

    def observe(self, num_pixels: int, seconds: float) -> None:
        """Take in what one call took; zero is nothing to learn from."""
        if seconds > 0:
            rate = self._rate or guess_rate(1.0)
            self._rate = rate.observe(num_pixels / _UNIT_PIXELS, 1, seconds)

    def estimate_s(self, num_pixels: int) -> float:
        """Return what a call is expected to take; nothing until one was drawn."""
        return self._rate.estimate_s(num_pixels / _UNIT_PIXELS, 1) if self._rate else 0.0
