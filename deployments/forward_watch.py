"""What each forward of a step loop means for the requests in it, and for the pool's metrics."""

import time
from collections import deque
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span

from cluster.metrics import record
from cluster.spans import end_span, is_chosen, start_span
from cluster.telemetry import (
    ATTR_BATCH_SIZE,
    ATTR_COST_UNITS,
    ATTR_POOL,
    ATTR_RUN_S,
    ATTR_STEP,
    BATCH_SIZE,
    EVENT_STEP,
    SPAN_FORWARD,
    STEP_BUSY,
    STEP_DURATION,
    STEP_REQUESTS,
    STEP_UNITS,
    UNWARMED_SHAPES,
    Outcome,
)
from deployments.log import logger
from pipeline.denoising.forward_report import ForwardReport
from pipeline.device_memory import mark_peak_memory, read_peak_memory
from pipeline.request import ImageSize


@dataclass
class FollowedRequest:
    """What the forwards of one request took so far. The loop's thread writes to it."""

    span: Span
    has_detail: bool
    num_forwards: int = 0
    num_shared: int = 0
    """Sum of the sizes of its batches."""
    share_s: float = 0.0
    units: float = 0.0
    peak_memory_bytes: int | None = None

    @property
    def mean_batch_size(self) -> float:
        """Requests in a forward, on average."""
        return self.num_shared / self.num_forwards if self.num_forwards else 0.0


class ForwardWatch:
    """Listens to a step loop. Told on the loop's thread; followed from the event loop's.

    What forwards took is measured by whoever calls `measure` now and then, so that the loop goes on
    meanwhile; where nobody does, at once.
    """

    def __init__(self, pool: str, *, detail_ratio: float, measures_at_once: bool) -> None:
        self._pool = pool
        self._detail_ratio = detail_ratio
        self._measures_at_once = measures_at_once
        self._followed: dict[str, FollowedRequest] = {}
        self._unmeasured: deque[ForwardReport] = deque()
        self._seen: set[ImageSize] = set()

    def follow(self, request_id: str, span: Span) -> FollowedRequest:
        """Collect what a request takes until it is let go."""
        followed = FollowedRequest(span, is_chosen(span, self._detail_ratio))
        # The loop refuses an id that it holds, so the first to follow it is the one that runs.
        self._followed.setdefault(request_id, followed)
        return followed

    def let_go(self, request_id: str, followed: FollowedRequest) -> None:
        """Follow a request no more."""
        if self._followed.get(request_id) is followed:
            del self._followed[request_id]

    def __call__(self, report: ForwardReport) -> None:
        """Take a forward in."""
        try:
            self._unmeasured.append(report)
            if self._measures_at_once:
                self.measure()
            self._apportion(report)
        except Exception:  # noqa: BLE001 - telemetry must not end the step loop
            logger.exception("telemetry of a forward failed")

    def measure(self) -> None:
        """Give the forwards since the last time to the metrics; one thread at a time."""
        reports = [self._unmeasured.popleft() for _ in range(len(self._unmeasured))]
        for report in reports:
            record(STEP_DURATION, report.seconds, pool=self._pool)
            record(BATCH_SIZE, len(report.ids), pool=self._pool)
        if reports:
            units = sum(sum(report.units) for report in reports)
            record(STEP_UNITS, units, pool=self._pool)
            record(STEP_BUSY, sum(report.seconds for report in reports), pool=self._pool)
            record(STEP_REQUESTS, sum(len(report.ids) for report in reports), pool=self._pool)
        for size in {size for report in reports for size in report.sizes} - self._seen:
            self._seen.add(size)
            record(UNWARMED_SHAPES, pool=self._pool)

    def _apportion(self, report: ForwardReport) -> None:
        peak = read_peak_memory()
        mark_peak_memory()
        detailed: list[Span] = []
        for request_id, units, share_s in zip(
            report.ids, report.units, report.shares_s(), strict=True
        ):
            followed = self._followed.get(request_id)
            if followed is None:
                continue
            followed.num_forwards += 1
            followed.num_shared += len(report.ids)
            followed.share_s += share_s
            followed.units += units
            if peak is not None:
                followed.peak_memory_bytes = max(peak, followed.peak_memory_bytes or 0)
            if followed.has_detail:
                detailed.append(followed.span)
                followed.span.add_event(EVENT_STEP, self._describe_step(followed, report))
        if detailed:
            self._trace_forward(report, detailed)

    def _describe_step(
        self, followed: FollowedRequest, report: ForwardReport
    ) -> dict[str, int | float]:
        return {
            ATTR_STEP: followed.num_forwards,
            ATTR_BATCH_SIZE: len(report.ids),
            ATTR_RUN_S: report.seconds,
        }

    def _trace_forward(self, report: ForwardReport, detailed: list[Span]) -> None:
        attributes: dict[str, str | int | float] = {
            ATTR_POOL: self._pool,
            ATTR_BATCH_SIZE: len(report.ids),
            ATTR_COST_UNITS: sum(report.units),
        }
        links = [Link(span.get_span_context()) for span in detailed]
        ended_ns = time.time_ns()
        begun_ns = ended_ns - int(1e9 * report.seconds)
        span = start_span(
            SPAN_FORWARD, attributes, context=Context(), links=links, start_ns=begun_ns
        )
        end_span(span, Outcome.SUCCEEDED, end_ns=ended_ns)
