"""Telemetry of one process: which exporters run in it, and what it calls itself."""

import os
from collections.abc import Mapping
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from ray import serve

from cluster.exporting import build_metric_exporter, build_span_processor, is_exported
from cluster.metrics import Meter, OtelMeter, use_meters
from cluster.spans import Attributes
from cluster.telemetry import ATTR_ACCELERATOR, ATTR_REPLICA
from deployments.log import trace_log_lines
from deployments.ray_metrics import RayMeter
from deployments.telemetry_config import TelemetryConfig
from pipeline.device import DeviceName, choose_device

SERVICE_NAME: Final = "zimage-serve"


def start_replica_telemetry(config: TelemetryConfig, device: DeviceName | None) -> Attributes:
    """Start telemetry in a replica, and return what its spans say of it.

    Raises:
        TelemetryError: If an `OTEL_` variable has a value that this service does not know.
    """
    context = serve.get_replica_context()
    replica = context.replica_id.unique_id
    meters = (RayMeter(),) if config.ray_metrics else ()
    start_process_telemetry(os.environ, instance=replica, extra_meters=meters)
    trace_log_lines()
    identity = {ATTR_REPLICA: f"{context.deployment}#{replica}"}
    if device is None:
        return identity
    return identity | {ATTR_ACCELERATOR: choose_device(device).accelerator}


def start_process_telemetry(
    environment: Mapping[str, str], *, instance: str, extra_meters: tuple[Meter, ...] = ()
) -> None:
    """Set up the exporters that the environment asks for; called once a process.

    Raises:
        TelemetryError: If an `OTEL_` variable has a value that this service does not know.
    """
    resource = _build_resource(environment, instance)
    if is_exported("TRACES", environment):
        _export_spans(environment, resource)
    meters = list(extra_meters)
    if is_exported("METRICS", environment):
        reader = PeriodicExportingMetricReader(build_metric_exporter(environment))
        meters.append(OtelMeter(MeterProvider([reader], resource)))
    use_meters(meters)


def _build_resource(environment: Mapping[str, str], instance: str) -> Resource:
    named = "OTEL_SERVICE_NAME" in environment or "service.name" in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    name = {} if named else {"service.name": SERVICE_NAME}
    return Resource.create({**name, "service.instance.id": instance})


def _export_spans(environment: Mapping[str, str], resource: Resource) -> None:
    provider = trace.get_tracer_provider()
    # Ray Serve has set one already where its own tracing is on.
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider(resource=resource)
        trace.set_tracer_provider(provider)
    provider.add_span_processor(build_span_processor(environment))
