"""What a choice of path is made from, and what it says."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from deployments.routing.pools import PoolTraits
from pipeline.request import Priority, RenderPath


@dataclass(frozen=True)
class RequestFacts:
    """What the choice depends on."""

    height: int
    width: int
    num_inference_steps: int
    priority: Priority = Priority.INTERACTIVE
    timeout_s: float | None = None
    """Seconds left until the picture is of no use."""
    is_job: bool = False
    """A job is stored: it may wait for room, for a cold pool, and past what its deadline hopes."""
    pinned_path: RenderPath | None = None
    num_images: int = 1
    """Alike; they can go on at once, as tiles can."""
    forwards_per_step: int = 1
    other_stages_s: float = 0.0
    """Encoding the prompt, decoding, storing."""


@dataclass(frozen=True)
class PassWork:
    """Steps of a call on one canvas: tiles of a step can go on at once, steps cannot."""

    num_steps: int
    num_tiles: int
    """Of all pictures."""
    tile_units: float
    """Of one forward."""

    @property
    def num_forwards(self) -> int:
        """Of all tiles in all steps."""
        return self.num_steps * self.num_tiles

    @property
    def units(self) -> float:
        """Of all forwards."""
        return self.num_forwards * self.tile_units


@dataclass(frozen=True)
class Work:
    """What a picture costs on one path."""

    passes: tuple[PassWork, ...]

    @cached_property
    def units(self) -> float:
        """Of all passes."""
        return sum(one.units for one in self.passes)

    @cached_property
    def num_forwards(self) -> int:
        """Of all passes."""
        return sum(one.num_forwards for one in self.passes)


class Reason(StrEnum):
    """Why a pool was chosen; a label of the metric that counts decisions."""

    PINNED = "pinned"
    PREFERRED = "preferred"
    LEAST_COST = "least_cost"
    ONLY = "only"
    COLD = "cold"


class RefusalKind(StrEnum):
    """Why none was."""

    TOO_LARGE = "too_large"
    """No pool of that path is configured for it: trying again is of no use."""
    UNAVAILABLE = "unavailable"
    BUSY = "busy"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Option:
    """What one pool would do with the request."""

    traits: PoolTraits
    work: Work
    wait_s: float
    least_wait_s: float
    """What is certain of it."""
    own_s: float
    """Denoising and the other stages."""
    least_own_s: float
    """What is certain of it."""
    busy_share: float
    """Of the pool's replicas, those that hold work."""
    is_cold: bool
    is_full: bool
    room_after_s: float
    """Seconds until a full pool has room."""

    @property
    def completion_s(self) -> float:
        """Seconds until the answer."""
        return self.wait_s + self.own_s

    @property
    def least_completion_s(self) -> float:
        """What is certain of it."""
        return self.least_wait_s + self.least_own_s


@dataclass(frozen=True)
class Choice:
    """A pool was found."""

    option: Option
    reason: Reason
    num_options: int
    wished: Option | None = None
    """What would have been preferred, had it replicas: the work counts as demand for that pool."""

    @property
    def pool(self) -> str:
        """Its name."""
        return self.option.traits.name

    @property
    def path(self) -> RenderPath:
        """How it draws."""
        return self.option.traits.path

    @property
    def estimate_s(self) -> float:
        """Seconds until the answer."""
        return self.option.completion_s

    def explain(self) -> str:
        """Say in one line why, for the log."""
        option = self.option
        return (
            f"{option.traits.name} ({self.reason} of {self.num_options}): "
            f"{option.work.units:.1f} units, wait {option.wait_s:.2f} s, own {option.own_s:.2f} s"
        )


@dataclass(frozen=True)
class Refusal:
    """No pool was found."""

    kind: RefusalKind
    retry_after_s: int | None
    """Whole seconds, at least 1; None where trying again is of no use."""
    message: str
    nearest: Option | None = None
    """What came nearest to taking it: the demand that was refused counts for that pool."""
    own_s: float | None = None
    """Seconds that it takes alone where that is least, if even that is too long."""


Decision = Choice | Refusal
