"""What OpenTelemetry's own reader in memory has collected."""

from typing import Any

from opentelemetry.sdk.metrics.export import InMemoryMetricReader


def read_points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """Return each metric's data points; their type depends on the instrument."""
    collected = reader.get_metrics_data()
    resources = [] if collected is None else collected.resource_metrics
    return {
        metric.name: list(metric.data.data_points)
        for resource in resources
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
