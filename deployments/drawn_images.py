"""What came of a call: its pictures, how long each stage took, and where it went."""

from dataclasses import dataclass

from deployments.pool_choice import Route


@dataclass(frozen=True)
class StageTimes:
    """Seconds by stage, of the stage's own work: what is between them is in the total only."""

    encode_s: float
    queue_s: float
    denoise_s: float
    decode_s: float
    file_s: float
    store_s: float
    total_s: float

    @property
    def other_s(self) -> float:
        """All but the denoising and the wait for it."""
        return self.total_s - self.queue_s - self.denoise_s


@dataclass(frozen=True)
class DrawnImage:
    """A picture that is in the store."""

    key: str
    seed: int
    content: bytes
    fingerprint: str
    """What its bytes depend on beside the call."""
    denoiser_fingerprint: str
    """The part of it that a live replica reports."""
    times: StageTimes
    share_s: float = 0.0
    """Seconds of the denoiser's device, the shared part of forwards apportioned by cost."""
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class DrawnImages:
    """All pictures of a call."""

    images: list[DrawnImage]
    route: Route
    num_prompt_tokens: int
