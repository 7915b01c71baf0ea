"""The service's metrics in Ray's exporter, beside Serve's own."""

from typing import Any, Final

from ray.serve import metrics

from cluster.telemetry import METRICS, Metric, MetricKind

_Instrument = metrics.Counter | metrics.Gauge | metrics.Histogram


class RayMeter:
    """Ray's instruments, each built once; Serve adds deployment, replica and application."""

    def __init__(self) -> None:
        self._instruments = {metric.name: _build(metric) for metric in METRICS}

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Give a value to its instrument."""
        instrument = self._instruments[metric.name]
        if isinstance(instrument, metrics.Histogram):
            instrument.observe(value, labels)
        elif isinstance(instrument, metrics.Gauge):
            instrument.set(value, labels)
        elif value:
            instrument.inc(value, labels)


_SUFFIX: Final = {"s": "_seconds", "By": "_bytes"}


def to_ray_name(metric: Metric) -> str:
    """Name a metric as Prometheus does: underscores, and the unit at the end."""
    return metric.name.replace(".", "_") + _SUFFIX.get(metric.unit, "")


def to_prometheus_name(metric: Metric) -> str:
    """Return the name under which Ray's exporter shows it."""
    total = "_total" if metric.kind is MetricKind.COUNTER else ""
    return f"ray_{to_ray_name(metric)}{total}"


def _build(metric: Metric) -> _Instrument:
    name = to_ray_name(metric)
    # Ray says `Tuple[str]` where it means any number of names.
    labels: Any = metric.labels
    match metric.kind:
        case MetricKind.COUNTER:
            return metrics.Counter(name, metric.description, labels)
        case MetricKind.GAUGE:
            return metrics.Gauge(name, metric.description, labels)
        case MetricKind.HISTOGRAM:
            return metrics.Histogram(name, metric.description, list(metric.buckets), labels)
