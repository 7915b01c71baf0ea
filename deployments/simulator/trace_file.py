"""Traces from files: CSV with a header, or one JSON object a line.

Columns: `time_s`, `height`, `width`, and if wanted `num_inference_steps`, `priority`, `timeout_s`,
`is_job`, `path`.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from deployments.routing.decisions import RequestFacts
from deployments.simulator.errors import PlanError
from deployments.simulator.traces import Trace
from pipeline.request import Priority, RenderPath

_REQUIRED: Final = {"time_s", "height", "width"}
_OPTIONAL: Final = {"num_inference_steps", "priority", "timeout_s", "is_job", "path"}
_BOOLEANS: Final = {"true": True, "false": False}

Row = Mapping[str, object]


def read_trace(path: Path) -> Trace:
    """Read a trace and put it in order.

    Raises:
        PlanError: If there is no such file, or a row is wrong; the message has its number.
    """
    if path.suffix not in _READERS:
        raise PlanError(f"a trace must be one of {sorted(_READERS)}, got {path.name}")
    if not path.is_file():
        raise PlanError(f"a trace must be a file, got {path}")
    kinds: dict[RequestFacts, int] = {}
    times, kind_of = [], []
    for number, row in enumerate(_READERS[path.suffix](path), start=1):
        try:
            facts = _to_facts(row)
            times.append(float(str(row["time_s"])))
        except (ValueError, KeyError) as exc:
            raise PlanError(f"row {number} of {path.name}: {exc}") from exc
        kind_of.append(kinds.setdefault(facts, len(kinds)))
    order = np.argsort(times, kind="stable")
    return Trace(
        np.array(times, dtype=np.float64)[order],
        np.array(kind_of, dtype=np.int32)[order],
        tuple(kinds),
    )


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as exc:
                raise PlanError(f"line {number} of {path.name} must be JSON: {exc}") from exc
            if not isinstance(row, dict):
                raise PlanError(f"line {number} of {path.name} must be an object, got {line[:40]}")
            yield row


_READERS: Final = {".csv": _read_csv, ".jsonl": _read_jsonl}


def _to_facts(row: Row) -> RequestFacts:
    given = {key: str(value) for key, value in row.items() if value not in (None, "")}
    if not given.keys() >= _REQUIRED or given.keys() - _REQUIRED - _OPTIONAL:
        raise ValueError(
            f"columns must be {sorted(_REQUIRED)} and may be {sorted(_OPTIONAL)}, "
            f"got {sorted(given)}"
        )
    return RequestFacts(
        height=int(given["height"]),
        width=int(given["width"]),
        num_inference_steps=int(given.get("num_inference_steps", "8")),
        priority=Priority(given.get("priority", Priority.INTERACTIVE)),
        timeout_s=float(given["timeout_s"]) if "timeout_s" in given else None,
        is_job=_BOOLEANS[given.get("is_job", "false").lower()],
        pinned_path=RenderPath(given["path"]) if "path" in given else None,
    )
