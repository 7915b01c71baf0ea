"""Traces from files: CSV with a header, or one JSON object a line.

Columns: `time_s`, `height`, `width`, and if wanted `num_inference_steps`, `priority`, `timeout_s`,
`is_job`, `path`. Times may be of any clock, such as seconds of the epoch.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from deployments.routing.decisions import RequestFacts
from deployments.simulator.errors import PlanError
from deployments.simulator.rules import (
    MAX_DURATION_S,
    read_number,
    read_positive,
    read_side,
    read_steps,
)
from deployments.simulator.traces import Trace
from pipeline.request import Priority, RenderPath

Row = Mapping[str, object]


def read_trace(path: Path) -> Trace:
    """Read a trace, put it in order, and count its time from the first arrival.

    Raises:
        PlanError: If there is no such file, or a line is wrong; the message has its number.
    """
    if path.suffix not in _READERS:
        raise PlanError(f"a trace must be one of {sorted(_READERS)}, got {path.name}")
    if not path.is_file():
        raise PlanError(f"a trace must be a file, got {path}")
    kinds: dict[RequestFacts, int] = {}
    times, kind_of = [], []
    for number, row in _read_rows(path):
        try:
            time_s, facts = _read_request(row)
        except ValueError as exc:
            raise PlanError(f"line {number} of {path.name}: {exc}") from exc
        times.append(time_s)
        kind_of.append(kinds.setdefault(facts, len(kinds)))
    return _build_trace(path, times, kind_of, tuple(kinds))


def _build_trace(
    path: Path, times: list[float], kind_of: list[int], kinds: tuple[RequestFacts, ...]
) -> Trace:
    order = np.argsort(times, kind="stable")
    times_s = np.array(times, dtype=np.float64)[order]
    if len(times_s) and times_s[-1] - times_s[0] > MAX_DURATION_S:
        raise PlanError(
            f"time_s of {path.name} must be at most {MAX_DURATION_S:.0f} s after the first, "
            f"got {times_s[0]:g} and {times_s[-1]:g}"
        )
    return Trace(times_s - times_s[:1], np.array(kind_of, dtype=np.int32)[order], kinds)


def _read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield each row with the number of its line."""
    try:
        yield from _READERS[path.suffix](path)
    except (UnicodeDecodeError, csv.Error) as exc:
        raise PlanError(f"{path.name} must be text in UTF-8: {exc}") from exc


def _read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restkey="more cells than columns")
        for row in reader:
            yield reader.line_num, row


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as exc:
                raise PlanError(f"line {number} of {path.name} must be JSON: {exc}") from exc
            if not isinstance(row, dict):
                raise PlanError(f"line {number} of {path.name} must be an object, got {line[:40]}")
            yield number, row


_READERS: Final = {".csv": _read_csv, ".jsonl": _read_jsonl}


def _read_priority(text: str) -> Priority:
    return Priority(_choose(text, Priority))


def _read_path(text: str) -> RenderPath:
    return RenderPath(_choose(text, RenderPath))


def _read_boolean(text: str) -> bool:
    return _choose(text.lower(), ("false", "true")) == "true"


def _choose(text: str, among: Iterable[str]) -> str:
    known = [str(each) for each in among]
    if text not in known:
        raise ValueError(f"must be one of {known}, got {text!r}")
    return text


_REQUIRED: Final[Mapping[str, Callable[[str], object]]] = {
    "time_s": read_number,
    "height": read_side,
    "width": read_side,
}
_OPTIONAL: Final[Mapping[str, Callable[[str], object]]] = {
    "num_inference_steps": read_steps,
    "priority": _read_priority,
    "timeout_s": read_positive,
    "is_job": _read_boolean,
    "path": _read_path,
}
_COLUMNS: Final = {**_REQUIRED, **_OPTIONAL}


def _read_request(row: Row) -> tuple[float, RequestFacts]:
    given = {key: str(value) for key, value in row.items() if value not in (None, "")}
    if not given.keys() >= _REQUIRED.keys() or given.keys() - _COLUMNS.keys():
        raise ValueError(
            f"columns must be {sorted(_REQUIRED)} and may be {sorted(_OPTIONAL)}, "
            f"got {sorted(given)}"
        )
    cells: dict[str, Any] = {name: _read_cell(name, text) for name, text in given.items()}
    facts = RequestFacts(
        height=cells["height"],
        width=cells["width"],
        num_inference_steps=cells.get("num_inference_steps", 8),
        priority=cells.get("priority", Priority.INTERACTIVE),
        timeout_s=cells.get("timeout_s"),
        is_job=cells.get("is_job", False),
        pinned_path=cells.get("path"),
    )
    return cells["time_s"], facts


def _read_cell(column: str, text: str) -> object:
    try:
        return _COLUMNS[column](text.strip())
    except ValueError as exc:
        raise ValueError(f"{column} {exc}") from exc
