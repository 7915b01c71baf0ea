"""The service's logger, below Serve's own: lines get Serve's format, file and request id."""

import logging
from collections.abc import Mapping

from opentelemetry import trace

from cluster.spans import read_trace_id

logger = logging.getLogger("ray.serve.zimage")


def trace_log_lines() -> None:
    """Let every line of the service carry the id of the trace that it was written in."""
    logger.addFilter(_add_trace_id)


def write_line(level: int, verb: str, fields: Mapping[str, object]) -> None:
    """Write what is known of a call, for people as `name=value` and as fields of the line."""
    known = {name: value for name, value in fields.items() if value is not None}
    text = " ".join(f"{name}={value}" for name, value in known.items())
    logger.log(level, "%s %s", verb, text, extra=known)


def _add_trace_id(line: logging.LogRecord) -> bool:
    trace_id = read_trace_id(trace.get_current_span())
    if trace_id is not None:
        line.trace_id = trace_id
    return True
