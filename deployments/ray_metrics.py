"""The service's metrics in Ray's exporter, beside Serve's own.

Ray shows a counter from its first event on, and Prometheus' `increase` then misses that one. So the
counters that alerts look at are shown at zero first.
"""

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from ray.serve import metrics

from cluster.telemetry import METRICS, Metric, MetricKind
from deployments.log import logger

_Instrument = metrics.Counter | metrics.Gauge | metrics.Histogram
_Labels = tuple[tuple[str, str], ...]

SUM_S: Final = 1.0
"""For how long counts are added up before Ray is told: to tell it takes many times as long."""


class RayMeter:
    """Ray's instruments, each built once; Serve adds deployment, replica and application."""

    def __init__(self) -> None:
        self._instruments = {metric.name: _build(metric) for metric in METRICS}
        self._sums: defaultdict[tuple[str, _Labels], float] = defaultdict(float)
        self._sums.update({(metric.name, labels): 0.0 for metric, labels in known_counts()})
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="ray-meter", daemon=True).start()

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Give a value to its instrument, or add it to what Ray is told within `SUM_S`."""
        if metric.kind is MetricKind.COUNTER:
            with self._lock:
                self._sums[metric.name, tuple(labels.items())] += value
            return
        instrument = self._instruments[metric.name]
        if isinstance(instrument, metrics.Histogram):
            instrument.observe(value, labels)
        elif isinstance(instrument, metrics.Gauge):
            instrument.set(value, labels)

    def flush(self) -> None:
        """Tell Ray of all counts so far."""
        with self._lock:
            sums, self._sums = self._sums, defaultdict(float)
        for (name, labels), value in sums.items():
            instrument = self._instruments[name]
            if isinstance(instrument, metrics.Counter):
                _count(instrument, value, dict(labels))

    def _run(self) -> None:
        while True:
            time.sleep(SUM_S)
            try:
                self.flush()
            except Exception:  # noqa: BLE001 - a process whose counts stand still looks idle
                logger.exception("Ray could not be told of counts")


def known_counts() -> Iterator[tuple[Metric, _Labels]]:
    """Yield the counters that are shown before their first event, each with its labels."""
    for metric in METRICS:
        if metric.known:
            for values in itertools.product(*metric.known):
                yield metric, tuple(zip(metric.labels, values, strict=True))


def _count(counter: metrics.Counter, value: float, labels: dict[str, str]) -> None:
    if value:
        counter.inc(value, labels)
    else:
        # `inc` takes no zero, and what is behind it does.
        counter._record(0.0, labels)


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
