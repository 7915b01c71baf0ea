"""Durable records that change by compare-and-set: what jobs and idempotency keys are kept in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

_INDEX: Final = re.compile(r"[A-Za-z0-9._:/-]{1,256}")


@dataclass(frozen=True)
class Record:
    """A body, and what finds it.

    Raises:
        ValueError: If the name of an index has characters that such names do not have.
    """

    id: str
    body: str = field(repr=False)
    """Text that only its owner reads."""
    version: int = 0
    """Counts the changes; a record that is yet to be inserted has 0."""
    guard: str = ""
    """Outcomes and events are taken only from who names it: a fence against deposed workers."""
    indexes: Mapping[str, float] = field(default_factory=dict)
    """Score of the record in each index that lists it. Empty in what `read` returns."""

    def __post_init__(self) -> None:
        for name in self.indexes:
            if not _INDEX.fullmatch(name):
                raise ValueError(f"an index must be named by letters, digits, ._:/-, got {name!r}")


@dataclass(frozen=True)
class Event:
    """One of the events of a record."""

    number: int
    """From 1, without gaps; early ones are dropped when there are too many."""
    body: str


class RecordStore(Protocol):
    """Keeps records for several processes at once.

    Methods block: an event loop calls them on a thread. Each is atomic, and durable when it
    returns, but for events: the last may be lost with the machine. All raise
    `RecordStoreUnavailableError` where the store cannot be reached.
    """

    def now(self) -> float:
        """Return the Unix seconds that all users of the store share."""
        ...

    def insert(
        self, record: Record, *, payload: str = "", max_payload_bytes: int | None = None
    ) -> bool:
        """Add a record, unless its id is taken. The payload is never changed, but may be dropped.

        Raises:
            PayloadsFullError: If all payloads would take more bytes than that.
        """
        ...

    def read(self, id: str) -> Record | None:
        """Return a record, if there is one."""
        ...

    def read_payload(self, id: str) -> str | None:
        """Return what came with the record when it was inserted; empty once it was dropped."""
        ...

    def payload_bytes(self) -> int:
        """Return the bytes of all payloads together."""
        ...

    def replace(self, record: Record, *, drops_payload: bool = False) -> bool:
        """Change a record, if the store still has the version that the argument has."""
        ...

    def delete(self, record: Record) -> bool:
        """Delete a record and all that belongs to it, if the store still has its version."""
        ...

    def put_outcome(self, id: str, name: str, body: str, *, guard: str) -> bool:
        """Add a named outcome; the first one under a name stays. False if the guard changed."""
        ...

    def read_outcomes(self, id: str) -> dict[str, str]:
        """Return all outcomes of a record by name."""
        ...

    def append_event(self, id: str, body: str, *, keep: int, guard: str) -> bool:
        """Add an event and keep the last `keep`. False if the guard changed."""
        ...

    def read_events(self, id: str, *, after: int) -> list[Event]:
        """Return the kept events whose number is above `after`, in order."""
        ...

    def first(self, index: str, *, until: float, limit: int) -> list[str]:
        """Return ids with a score of at most `until`, lowest first."""
        ...

    def count(self, index: str, *, below: float) -> int:
        """Count ids with a score below one."""
        ...

    def page(self, index: str, *, after: str | None, limit: int) -> list[str]:
        """Return ids, highest score first, from the one that follows `after`.

        An `after` that the index does not have gives none.
        """
        ...

    def check(self) -> None:
        """Find out now what would go wrong later.

        Raises:
            RecordStoreConfigurationError: If the store is set up to lose records.
        """
        ...

    def close(self) -> None:
        """Let connections go."""
        ...
