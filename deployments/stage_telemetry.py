"""What every replica of a stage tells of its work: a span a call, and how long it took to start."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, ParamSpec, TypeVar

from opentelemetry.trace import INVALID_SPAN, Span

from cluster.metrics import record
from cluster.spans import (
    Attributes,
    Carrier,
    end_span,
    from_carrier,
    is_sent_chosen,
    start_late_span,
    start_span,
)
from cluster.telemetry import (
    ATTR_PEAK_MEMORY,
    ATTR_QUEUE_S,
    ATTR_RUN_S,
    PEAK_MEMORY,
    REPLICA_START,
    SPAN_DECODE,
    SPAN_DENOISE,
    SPAN_ENCODE,
    SPAN_TILE,
    Outcome,
)
from deployments.afterwards import Afterwards
from deployments.outcomes import classify
from pipeline.device_memory import mark_peak_memory, read_peak_memory

P = ParamSpec("P")
T = TypeVar("T")

StageName = Literal["encode", "denoise", "decode"]
_SPANS: Final = {"encode": SPAN_ENCODE, "denoise": SPAN_DENOISE, "decode": SPAN_DECODE}


@dataclass
class StageRun:
    """One call of a stage. Its span lasts from arrival to the end of the run, by one clock."""

    span: Span
    stage: StageName
    arrived_s: float = field(default_factory=time.monotonic)
    arrived_ns: int = field(default_factory=time.time_ns)
    ended_s: float | None = None
    peak_memory_bytes: int | None = None

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on this thread, which until now was somebody else's."""
        begun_s = time.monotonic()
        mark_peak_memory()
        result = function(*args, **kwargs)
        self.took(begun_s - self.arrived_s, time.monotonic() - begun_s, read_peak_memory())
        return result

    def took(self, queue_s: float, run_s: float, peak_memory_bytes: int | None) -> None:
        """Tell what was waited, what was run and what it took."""
        self.ended_s = self.arrived_s + queue_s + run_s
        self.span.set_attributes({ATTR_QUEUE_S: queue_s, ATTR_RUN_S: run_s})
        if peak_memory_bytes is not None:
            self.peak_memory_bytes = peak_memory_bytes
            self.span.set_attribute(ATTR_PEAK_MEMORY, peak_memory_bytes)
            record(PEAK_MEMORY, peak_memory_bytes, stage=self.stage)

    def end(self, outcome: Outcome, error: str | None = None) -> None:
        """End the span, where the run ended or else now."""
        ended_s = time.monotonic() if self.ended_s is None else self.ended_s
        end_ns = self.arrived_ns + int(1e9 * (ended_s - self.arrived_s))
        end_span(self.span, outcome, error=error, end_ns=end_ns)


class StageTelemetry:
    """Bound to a deployment, and started in its replica."""

    def __init__(
        self, stage: StageName, start_process: Callable[[], Attributes] | None = None
    ) -> None:
        self._stage = stage
        self._start_process = start_process
        self._identity: Attributes = {}
        self._afterwards = Afterwards()

    def start(self, load: Callable[[], T]) -> T:
        """Start this process's exporters, then load, and tell how long it took."""
        if self._start_process is not None:
            self._identity = self._start_process()
        begun_s = time.monotonic()
        loaded = load()
        record(REPLICA_START, time.monotonic() - begun_s, stage=self._stage)
        return loaded

    @contextlib.contextmanager
    def span(
        self, trace: Carrier | None, attributes: Attributes, *, has_more: bool = False
    ) -> Iterator[StageRun]:
        """Trace one call, as a child of what its caller sent or of the current span.

        Args:
            trace: What the caller sent.
            attributes: Of the span, beside what this process says of itself.
            has_more: Whether the span gets children, links or events; otherwise it is made when
                the answer is on its way.
        """
        name, context = _SPANS[self._stage], from_carrier(trace)
        known = {**self._identity, **attributes}
        if has_more:
            span = start_span(name, known, context=context)
        else:
            span = start_late_span(name, known, self._afterwards.add, context=context)
        with self._run(span) as run:
            yield run

    @contextlib.contextmanager
    def tile_span(
        self, trace: Carrier | None, attributes: Attributes, *, detail_ratio: float
    ) -> Iterator[StageRun]:
        """Trace one tile, if its picture's trace is among those that get detail."""
        span: Span = INVALID_SPAN
        if is_sent_chosen(trace, detail_ratio):
            known = {**self._identity, **attributes}
            span = start_span(SPAN_TILE, known, context=from_carrier(trace))
        with self._run(span) as run:
            yield run

    @contextlib.contextmanager
    def _run(self, span: Span) -> Iterator[StageRun]:
        run = StageRun(span, self._stage)
        try:
            yield run
        except BaseException as exc:
            run.end(*classify(exc))
            raise
        run.end(Outcome.SUCCEEDED)
