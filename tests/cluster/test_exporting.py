"""The environment chooses exporters; what they cannot send is counted, never waited for."""

import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from cluster.errors import TelemetryError
from cluster.exporting import CountingSpanProcessor, choose_protocol, is_exported
from cluster.metrics import use_meters
from cluster.telemetry import TELEMETRY_DROPPED, Metric


class SumMeter:
    """Sums what is dropped, by reason."""

    def __init__(self) -> None:
        self.dropped: dict[str, float] = {}

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        assert metric is TELEMETRY_DROPPED
        self.dropped[labels["reason"]] = self.dropped.get(labels["reason"], 0) + value


class StuckExporter(SpanExporter):
    """Waits until it is let go, then answers as told."""

    def __init__(self, result: SpanExportResult) -> None:
        self.is_exporting = threading.Event()
        self.may_go_on = threading.Event()
        self.num_exported = 0
        self._result = result

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.is_exporting.set()
        self.may_go_on.wait(30)
        self.num_exported += len(spans)
        return self._result


@pytest.fixture
def meter() -> Iterator[SumMeter]:
    meter = SumMeter()
    use_meters([meter])
    yield meter
    use_meters([])


def end_spans(provider: TracerProvider, num_spans: int) -> None:
    for _ in range(num_spans):
        provider.get_tracer("test").start_span("span").end()


def test_a_full_queue_drops_and_counts_without_waiting(meter: SumMeter) -> None:
    exporter = StuckExporter(SpanExportResult.SUCCESS)
    processor = CountingSpanProcessor(exporter, max_spans=4)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    end_spans(provider, 4)
    exporter.is_exporting.wait(30)

    end_spans(provider, 10)
    exporter.may_go_on.set()
    processor.shutdown()

    assert meter.dropped == {"queue_full": 6}
    assert exporter.num_exported == 8


def test_what_the_collector_refuses_is_counted(meter: SumMeter) -> None:
    exporter = StuckExporter(SpanExportResult.FAILURE)
    exporter.may_go_on.set()
    processor = CountingSpanProcessor(exporter, max_spans=16)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)

    end_spans(provider, 5)
    processor.shutdown()

    assert meter.dropped == {"export_failed": 5}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_traces_are_off_unless_an_endpoint_is_set(
    environment: dict[str, str], expected: bool
) -> None:
    assert is_exported("TRACES", environment) is expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "http"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        (
            {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            "http",
        ),
    ],
)
def test_a_signals_own_protocol_wins(environment: dict[str, str], expected: str) -> None:
    assert choose_protocol("TRACES", environment) == expected


def test_another_protocol_is_refused() -> None:
    with pytest.raises(TelemetryError, match="must be 'grpc' or 'http/protobuf', got 'http/json'"):
        choose_protocol("TRACES", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})
