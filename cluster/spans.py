"""Spans over OpenTelemetry's API: one tree a request, across processes.

The context travels as a `Carrier`, W3C's `traceparent` and `tracestate` in a plain dict, in the
arguments of a handle's call. Where no provider is set every span is a no-op and a carrier is empty.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cluster.telemetry import ATTR_OUTCOME, Outcome

Carrier = dict[str, str]
Attributes = Mapping[str, str | int | float]

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
    """Say the same of the trace that a caller sent along, if it is sampled."""
    context = from_carrier(carrier)
    if context is None:
        return False
    span = trace.get_current_span(context)
    return span.get_span_context().trace_flags.sampled and _is_within(span, ratio)


def _is_within(span: Span, ratio: float) -> bool:
    return span.get_span_context().trace_id % 2**56 < ratio * 2**56
