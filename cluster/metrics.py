"""A tiny port for metrics: what a process measures, whoever exports it.

A process names its meters once, with `use_meters`; until then values go nowhere. Recording never
raises and never waits.
"""

from collections.abc import Sequence
from typing import Protocol

from opentelemetry import metrics as otel

from cluster.telemetry import METRICS, Metric, MetricKind


class Meter(Protocol):
    """Takes values for the instruments of `cluster.telemetry`."""

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Add to a counter, set a gauge, or observe in a histogram."""
        ...


class OtelMeter:
    """OpenTelemetry's instruments, each built once."""

    def __init__(self, provider: otel.MeterProvider) -> None:
        meter = provider.get_meter("zimage")
        self._counters = {
            metric.name: meter.create_counter(metric.name, metric.unit, metric.description)
            for metric in _of_kind(MetricKind.COUNTER)
        }
        self._gauges = {
            metric.name: meter.create_gauge(metric.name, metric.unit, metric.description)
            for metric in _of_kind(MetricKind.GAUGE)
        }
        self._histograms = {
            metric.name: meter.create_histogram(
                metric.name,
                metric.unit,
                metric.description,
                explicit_bucket_boundaries_advisory=metric.buckets,
            )
            for metric in _of_kind(MetricKind.HISTOGRAM)
        }

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Give a value to its instrument."""
        match metric.kind:
            case MetricKind.COUNTER:
                self._counters[metric.name].add(value, labels)
            case MetricKind.GAUGE:
                self._gauges[metric.name].set(value, labels)
            case MetricKind.HISTOGRAM:
                self._histograms[metric.name].record(value, labels)


_meters: tuple[Meter, ...] = ()


def use_meters(meters: Sequence[Meter]) -> None:
    """Send every later value of this process to these meters."""
    global _meters
    _meters = tuple(meters)


def record(metric: Metric, value: float = 1.0, **labels: str) -> None:
    """Record one value; every label of the metric must be given."""
    for meter in _meters:
        meter.record(metric, value, labels)


def _of_kind(kind: MetricKind) -> list[Metric]:
    return [metric for metric in METRICS if metric.kind is kind]
