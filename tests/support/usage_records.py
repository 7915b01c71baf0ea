"""Usage records and exporters for tests."""

from collections.abc import Sequence
from typing import Any

from cluster.telemetry import Outcome
from cluster.usage import UsageRecord


def make_record(record_id: str, *, outcome: Outcome | None = None, **fields: Any) -> UsageRecord:
    """Build a record of 24.5 cost units; it has an end if it has an outcome."""
    values: dict[str, Any] = {
        "request_id": f"req-{record_id}",
        "key_id": "anonymous",
        "accepted_at": "2026-11-25T08:15:00.000+00:00",
        "model": "m",
        "model_revision": "r1",
        "size": "1024x1024",
        "num_images": 1,
        "num_inference_steps": 8,
        "priority": "interactive",
        "path": "full_image",
        "pool": "default",
        "cost_units": 24.5,
        "input_hmac": "00",
        "ended_at": None if outcome is None else "2026-11-25T08:15:02.000+00:00",
        **fields,
    }
    return UsageRecord(id=record_id, outcome=outcome, **values)


class CollectingExporter:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[UsageRecord] = []

    def export(self, records: Sequence[UsageRecord]) -> None:
        """Take records."""
        self.records += records


class FailingExporter(CollectingExporter):
    """Fails a number of times first."""

    def __init__(self, num_failures: int) -> None:
        super().__init__()
        self._num_failures = num_failures

    def export(self, records: Sequence[UsageRecord]) -> None:
        """Take records, or fail as a store does."""
        if self._num_failures:
            self._num_failures -= 1
            raise OSError("the store is away")
        super().export(records)
