"""From exported lines to sums: each id once, by key, day and model. Pure but for reading files."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import TelemetryError
from cluster.telemetry import Outcome
from cluster.usage.record import UsageRecord


@dataclass(frozen=True)
class Price:
    """What work costs a caller; only what succeeded is charged."""

    currency: str = "USD"
    per_cost_unit: float = 0.0
    per_image: float = 0.0

    def charge(self, record: UsageRecord) -> float:
        """Return the price of one call."""
        if record.outcome is not Outcome.SUCCEEDED:
            return 0.0
        return self.per_cost_unit * record.cost_units + self.per_image * record.num_images


@dataclass(frozen=True)
class UsageTotal:
    """The sums of one key, day and model."""

    key_id: str
    day: str
    model: str
    num_calls: int
    num_succeeded: int
    num_images: int
    """Of calls that succeeded, as are the next two."""
    cost_units: float
    device_ms: float
    charge: float


def read_records(files: Iterable[Path]) -> Iterator[UsageRecord]:
    """Read exported files, line by line.

    Raises:
        TelemetryError: If a line is not a record, naming file and line.
        OSError: If a file cannot be read.
    """
    for path in files:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield _read_line(line, f"{path}, line {number}")


def merge_records(records: Iterable[UsageRecord]) -> dict[str, UsageRecord]:
    """Keep one record an id: the one that knows most, whatever the order they come in.

    Success counts above any other end, since a job that was lost may have been drawn after all;
    an end by the call's own process above one that was assumed; and the later above the earlier.
    """
    merged: dict[str, UsageRecord] = {}
    for record in records:
        known = merged.get(record.id)
        if known is None or _rank(record) > _rank(known):
            merged[record.id] = record
    return merged


def count_usage(records: Iterable[UsageRecord], price: Price) -> list[UsageTotal]:
    """Sum each id once, by key, day and model, in that order."""
    groups: dict[tuple[str, str, str], list[UsageRecord]] = defaultdict(list)
    for record in merge_records(records).values():
        groups[record.key_id, record.day, record.model].append(record)
    return [_sum(key, groups[key], price) for key in sorted(groups)]


def _read_line(line: bytes, place: str) -> UsageRecord:
    try:
        return UsageRecord.from_line(line.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise TelemetryError(f"usage records must be UTF-8, got other bytes in {place}") from exc
    except TelemetryError as exc:
        raise TelemetryError(f"{exc} in {place}") from exc


def _rank(record: UsageRecord) -> tuple[bool, bool, str]:
    is_known = not record.is_open and record.outcome is not Outcome.LOST
    return record.outcome is Outcome.SUCCEEDED, is_known, record.ended_at or ""


def _sum(key: tuple[str, str, str], records: list[UsageRecord], price: Price) -> UsageTotal:
    succeeded = [record for record in records if record.outcome is Outcome.SUCCEEDED]
    return UsageTotal(
        *key,
        num_calls=len(records),
        num_succeeded=len(succeeded),
        num_images=sum(record.num_images for record in succeeded),
        cost_units=sum(record.cost_units for record in succeeded),
        device_ms=sum(_device_ms(record) for record in succeeded),
        charge=sum(price.charge(record) for record in succeeded),
    )


def _device_ms(record: UsageRecord) -> float:
    stage_ms = record.stage_ms
    return 0.0 if stage_ms is None else stage_ms.encode + stage_ms.denoise + stage_ms.decode
