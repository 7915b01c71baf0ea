"""A job as the store keeps it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from cluster.errors import JobFormatError
from cluster.spans import Carrier

FORMAT: Final = 3
"""Of a job's record and of what it keeps of its requests; one more for any field more or less.

A version reads those up to its own and leaves the others to later versions. What has no number is
of format 1.
"""


class JobStatus(StrEnum):
    """Where a job is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class JobKind(StrEnum):
    """What a job's result looks like."""

    IMAGE = "image"
    """The answer of one call."""
    BATCH = "batch"
    """An answer or an error for each of many calls."""


class Lane(StrEnum):
    """Queues that are served side by side, so that a long one never holds up a short one."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True)
class JobFailure:
    """Why a job failed, in the form of OpenAI's errors."""

    message: str
    type: str
    code: str
    param: str | None = None


@dataclass(frozen=True)
class Delivery:
    """A message that a webhook has yet to take."""

    id: str
    event: str
    """Such as `job.succeeded`."""
    happened_at: float
    attempts: int = 0


@dataclass(frozen=True)
class Job:
    """All that is known of a job but its prompts and results. Times are the store's clock."""

    id: str
    owner: str
    """Who may see it."""
    request_id: str
    """The caller's own, for correlation only."""
    kind: JobKind
    lane: Lane
    num_items: int
    created_at: float
    deadline_at: float
    estimate_s: float
    """Seconds of work, as estimated at acceptance."""
    turn_at: float = 0.0
    """Its place among new jobs: when it was accepted, or later by the work that its owner has
    queued before it, so that owners take turns."""
    webhook_url: str | None = field(default=None, repr=False)
    status: JobStatus = JobStatus.QUEUED
    attempts: int = 0
    """How often it was begun since it last made progress."""
    lease: str = ""
    """Names the runner that has it."""
    lease_expires_at: float | None = None
    begun_at: float | None = None
    """Since when its runner has it."""
    not_before: float | None = None
    """Until when it waits for room in a pool; None for one that has not been refused."""
    num_waits: int = 0
    """How often in a row it was put back to wait."""
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    failure: JobFailure | None = None
    deliveries: tuple[Delivery, ...] = ()
    """In the order in which they are to arrive."""
    deliver_at: float | None = None
    """When the first of them is to be tried."""
    trace: Carrier = field(default_factory=dict)
    """Of the call that it was accepted from; empty where nothing is traced."""

    def to_json(self) -> str:
        """Return the record's body."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a record's body.

        Raises:
            JobFormatError: If another version of the service wrote it.
        """
        try:
            values = json.loads(text)
            if (format := values.pop("format", 1)) > FORMAT:
                raise ValueError(f"format must be at most {FORMAT}, got {format}")
            return cls(**_to_fields(values))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise JobFormatError(f"a job must have this version's fields: {exc}") from exc

    def to_indexes(self) -> Mapping[str, float]:
        """Return the lists that the job is in, with its place in each."""
        places = {
            owner_index(self.owner): self.created_at,
            queue_index(self.lane): self.place if self._is_new() else None,
            queue_index(self.lane, self.owner): self.place if self._is_queued() else None,
            waiting_index(self.lane): self.not_before,
            lease_index(self.lane): self.lease_expires_at,
            DEADLINE_INDEX: None if self.status.is_final else self.deadline_at,
            EXPIRY_INDEX: self.expires_at,
            WEBHOOK_INDEX: self.deliver_at,
        }
        return {name: score for name, score in places.items() if score is not None}

    @property
    def place(self) -> float:
        """Where it is among new jobs; the lowest comes first."""
        return max(self.created_at, self.turn_at)

    def _is_queued(self) -> bool:
        return self.status is JobStatus.QUEUED

    def _is_new(self) -> bool:
        return self._is_queued() and self.not_before is None


DEADLINE_INDEX: Final = "deadline"
EXPIRY_INDEX: Final = "expiry"
WEBHOOK_INDEX: Final = "webhook"


def _to_fields(values: dict[str, Any]) -> dict[str, Any]:
    failure = values["failure"]
    return {
        **values,
        "kind": JobKind(values["kind"]),
        "lane": Lane(values["lane"]),
        "status": JobStatus(values["status"]),
        "failure": None if failure is None else JobFailure(**failure),
        "deliveries": tuple(Delivery(**each) for each in values["deliveries"]),
    }


def owner_index(owner: str) -> str:
    """Return the name of the list of an owner's jobs."""
    return f"owner/{owner}"


def queue_index(lane: Lane, owner: str | None = None) -> str:
    """Return the name of the list of queued jobs that no pool has refused, or an owner's of all."""
    return f"queue/{lane.value}" if owner is None else f"queue/{lane.value}/{owner}"


def waiting_index(lane: Lane) -> str:
    """Return the name of the list of queued jobs that wait for room, by when to try again."""
    return f"waiting/{lane.value}"


def lease_index(lane: Lane) -> str:
    """Return the name of the list of jobs that run, by when their runner must renew."""
    return f"lease/{lane.value}"
