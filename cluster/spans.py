"""Spans over OpenTelemetry's API: one tree a request, across processes.

The context travels as a `Carrier`, W3C's `traceparent` and `tracestate` in a plain dict, in the
arguments of a handle's call. Where no provider is set every span is a no-op and a carrier is empty.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from cluster.telemetry import ATTR_OUTCOME, Outcome

Carrier = dict[str, str]
Attributes = Mapping[str, str | int | float]
Later = Callable[[Callable[[], None]], None]
"""Calls a function when nobody waits any more."""

ERROR_TYPE: Final = "error.type"
_PROPAGATOR: Final = TraceContextTextMapPropagator()


def to_carrier(span: Span | None = None) -> Carrier:
    """Return a span's context, or else the current one, to be sent along."""
    carrier: Carrier = {}
    _PROPAGATOR.inject(carrier, None if span is None else trace.set_span_in_context(span))
    return carrier


def from_carrier(carrier: Mapping[str, str] | None) -> Context | None:
    """Return the context that a caller sent; None means the current one."""
    return _PROPAGATOR.extract(carrier, context=Context()) if carrier else None


def start_span(
    name: str,
    attributes: Attributes,
    *,
    context: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[Link] = (),
    start_ns: int | None = None,
) -> Span:
    """Start a span that is nobody's current one; its times are nanoseconds since 1970."""
    tracer = _tracer_of(trace.get_tracer_provider())
    return tracer.start_span(name, context, kind, attributes, links=links, start_time=start_ns)


def start_late_span(
    name: str, attributes: Attributes, later: Later, *, context: Context | None
) -> Span:
    """Start a span without children or links, of which its call waits for next to nothing.

    To make a span takes a good part of a millisecond, so it is made `later`, once it has ended.
    Until then it has no id: what is sent from within it goes to its parent. A span whose parent is
    not sampled is made at once, since that costs nothing.
    """
    parent = trace.get_current_span(context)
    if not parent.get_span_context().trace_flags.sampled:
        return start_span(name, attributes, context=context)
    return _LateSpan(parent, partial(start_span, name, context=context), attributes, later)


class _LateSpan(NonRecordingSpan):
    """Keeps what it is told, and tells the real one at the end."""

    def __init__(
        self, parent: Span, start: Callable[..., Span], attributes: Attributes, later: Later
    ) -> None:
        super().__init__(parent.get_span_context())
        self._start = partial(start, start_ns=time.time_ns())
        self._attributes: dict[str, AttributeValue] = dict(attributes)
        self._later = later
        self._status: Status | None = None

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._attributes.update(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self._attributes[key] = value

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._status = Status(status, description) if isinstance(status, StatusCode) else status

    def end(self, end_time: int | None = None) -> None:
        self._later(partial(self._make, time.time_ns() if end_time is None else end_time))

    def _make(self, end_ns: int) -> None:
        span = self._start(attributes=self._attributes)
        if self._status is not None:
            span.set_status(self._status)
        span.end(end_ns)


@cache
def _tracer_of(provider: TracerProvider) -> Tracer:
    """Return a provider's tracer: to build one takes as long as half a span."""
    return provider.get_tracer("zimage")


def end_span(
    span: Span, outcome: Outcome, *, error: str | None = None, end_ns: int | None = None
) -> None:
    """End a span; only a failure is an error, a refusal or a cancellation is not."""
    span.set_attribute(ATTR_OUTCOME, outcome.value)
    if error is not None:
        span.set_attribute(ERROR_TYPE, error)
    if outcome is Outcome.FAILED:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(end_ns)


def read_trace_id(span: Span) -> str | None:
    """Return the id of the span's trace in hexadecimal; None where nothing is traced."""
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def is_chosen(span: Span, ratio: float) -> bool:
    """Say whether a trace is among the `ratio` of all that get detail: the same in every process.

    By the trace id's lowest 56 bits, which W3C's level 2 asks to be random.
    """
    return span.is_recording() and _is_within(span, ratio)


def is_sent_chosen(carrier: Mapping[str, str] | None, ratio: float) -> bool:
    """Say the same of the trace that a caller sent along, or of the current one, if sampled."""
    span = trace.get_current_span(from_carrier(carrier))
    return span.get_span_context().trace_flags.sampled and _is_within(span, ratio)


def _is_within(span: Span, ratio: float) -> bool:
    return span.get_span_context().trace_id % 2**56 < ratio * 2**56
