"""One call's usage: what it asked for, what it took, how it ended. Never what was drawn."""

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from cluster.errors import TelemetryError
from cluster.telemetry import Outcome

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class StageMilliseconds:
    """Milliseconds of the machines, summed over a call's pictures."""

    queue: float = 0.0
    encode: float = 0.0
    denoise: float = 0.0
    """The call's part of its forwards, which it may have shared, apportioned by cost."""
    decode: float = 0.0
    file: float = 0.0
    store: float = 0.0


@dataclass(frozen=True)
class UsageRecord:
    """A record is open until it has an outcome; its id is unique and made by the server."""

    id: str
    request_id: str
    key_id: str
    accepted_at: str
    """ISO 8601 in UTC."""
    model: str
    model_revision: str
    size: str
    num_images: int
    num_inference_steps: int
    priority: str
    path: str
    pool: str
    cost_units: float
    input_hmac: str
    ended_at: str | None = None
    outcome: Outcome | None = None
    error: str | None = None
    total_ms: float | None = None
    stage_ms: StageMilliseconds | None = None
    peak_memory_bytes: int | None = None
    keys: tuple[str, ...] = ()
    """Where the pictures are in the store."""

    @property
    def is_open(self) -> bool:
        """Whether the call has not ended, as far as the record knows."""
        return self.outcome is None

    @property
    def hour(self) -> str:
        """The hour of its end, or else of its acceptance: `2026-11-25T08`."""
        return (self.ended_at or self.accepted_at)[:13]

    @property
    def day(self) -> str:
        """The day of acceptance: `2026-11-25`."""
        return self.accepted_at[:10]

    def end(self, at: datetime, outcome: Outcome, **known: Any) -> Self:
        """Close it, with whatever fields are known now."""
        return dataclasses.replace(self, ended_at=to_text(at), outcome=outcome, **known)

    def to_line(self) -> str:
        """Return one line of JSON, its end included; nothing that is unknown is in it."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        if self.stage_ms is not None:
            values["stage_ms"] = vars(self.stage_ms)
        return _ENCODER.encode(values) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read one line.

        Raises:
            TelemetryError: If it is not a record.
        """
        try:
            values = json.loads(line)
            stage_ms = values.pop("stage_ms", None)
            return cls(
                **_typed(values),
                stage_ms=None if stage_ms is None else StageMilliseconds(**stage_ms),
            )
        except (ValueError, TypeError, AttributeError) as exc:
            raise TelemetryError(
                f"a usage record must be a line of JSON, got {line[:64]!r}"
            ) from exc


def to_text(at: datetime) -> str:
    """Write a time as records do."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    outcome = values.get("outcome")
    return {
        **values,
        "outcome": None if outcome is None else Outcome(outcome),
        "keys": tuple(values.get("keys", ())),
    }
