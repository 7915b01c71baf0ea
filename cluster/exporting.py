"""Exporters by OpenTelemetry's own environment variables; off unless an endpoint is set.

A request never waits for an exporter: spans wait in a bounded queue (`OTEL_BSP_MAX_QUEUE_SIZE`) for
a thread that sends them, and what finds the queue full, or is refused by the collector, is counted.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcMetricExporter,
)
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcSpanExporter,
)
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpMetricExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpSpanExporter,
)
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from cluster.errors import TelemetryError
from cluster.metrics import record
from cluster.telemetry import TELEMETRY_DROPPED

Signal = Literal["TRACES", "METRICS"]

_DEFAULT_QUEUE: Final = 2048
_DEFAULT_BATCH: Final = 512


def is_exported(signal: Signal, environment: Mapping[str, str]) -> bool:
    """Say whether the environment names an endpoint for a signal and does not turn it off."""
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    has_endpoint = any(environment.get(name) for name in names)
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return has_endpoint and not is_disabled and environment.get(f"OTEL_{signal}_EXPORTER") != "none"


def choose_protocol(signal: Signal, environment: Mapping[str, str]) -> Literal["grpc", "http"]:
    """Read the protocol; the default is the specification's, HTTP.

    Raises:
        TelemetryError: If it is not one that this service speaks.
    """
    name = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    protocol = environment.get(name) or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    match protocol:
        case "grpc":
            return "grpc"
        case None | "" | "http/protobuf":
            return "http"
        case _:
            raise TelemetryError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL must be 'grpc' or 'http/protobuf', got {protocol!r}"
            )


def build_metric_exporter(environment: Mapping[str, str]) -> MetricExporter:
    """Build the exporter; endpoint, headers and certificates are read by OpenTelemetry."""
    if choose_protocol("METRICS", environment) == "grpc":
        return GrpcMetricExporter()
    return HttpMetricExporter()


def build_span_processor(environment: Mapping[str, str]) -> SpanProcessor:
    """Build the bounded queue and the exporter behind it."""
    is_grpc = choose_protocol("TRACES", environment) == "grpc"
    exporter: SpanExporter = GrpcSpanExporter() if is_grpc else HttpSpanExporter()
    max_spans = int(environment.get("OTEL_BSP_MAX_QUEUE_SIZE") or _DEFAULT_QUEUE)
    return CountingSpanProcessor(exporter, max_spans=max_spans)


class CountingSpanProcessor(SpanProcessor):
    """A `BatchSpanProcessor` that counts what it drops.

    It keeps the count of spans that wait itself and lets no more in than there is room for, so
    that the queue below never drops any silently.
    """

    def __init__(self, exporter: SpanExporter, *, max_spans: int) -> None:
        self._max_spans = max_spans
        self._num_waiting = 0
        self._lock = threading.Lock()
        self._batches = BatchSpanProcessor(
            _CountingExporter(exporter, self._on_taken),
            max_queue_size=max_spans,
            max_export_batch_size=min(max_spans, _DEFAULT_BATCH),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span, or count it as dropped."""
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return
        with self._lock:
            has_room = self._num_waiting < self._max_spans
            self._num_waiting += has_room
        if has_room:
            self._batches.on_end(span)
        else:
            record(TELEMETRY_DROPPED, reason="queue_full")

    def shutdown(self) -> None:
        """Send what is queued and stop."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is queued."""
        return self._batches.force_flush(timeout_millis)

    def _on_taken(self, num_spans: int) -> None:
        with self._lock:
            self._num_waiting -= num_spans


class _CountingExporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, on_taken: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._on_taken = on_taken

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._on_taken(len(spans))
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            record(TELEMETRY_DROPPED, len(spans), reason="export_failed")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
