"""The service's logger, below Serve's own: lines get Serve's format, file and request id."""

import logging

from opentelemetry import trace

from cluster.spans import read_trace_id

logger = logging.getLogger("ray.serve.zimage")


def trace_log_lines() -> None:
    """Let every line of the service carry the id of the trace that it was written in."""
    logger.addFilter(_add_trace_id)


def _add_trace_id(line: logging.LogRecord) -> bool:
    trace_id = read_trace_id(trace.get_current_span())
    if trace_id is not None:
        line.trace_id = trace_id
    return True
