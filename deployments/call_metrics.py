"""The router's metrics of one call that has ended."""

from typing import Final

from cluster.metrics import record
from cluster.telemetry import (
    COST_UNITS,
    DEADLINES,
    ESTIMATE_RATIO,
    REQUEST_DURATION,
    REQUESTS,
    STAGE_BUSY,
    STAGE_DURATION,
    Outcome,
)
from deployments.drawn_images import DrawnImages
from deployments.errors import DeadlineExceededError
from deployments.generation import ImagesOrder
from deployments.pool_choice import Route

_NO_PATH: Final = "none"
_UNCOUNTED: Final = (Outcome.CANCELLED, Outcome.REFUSED)
"""Ends for which the deadline says nothing of the service."""


def measure_end(
    order: ImagesOrder, route: Route | None, outcome: Outcome, error: str | None
) -> None:
    """Count a call, and whether it kept its deadline if it was accepted."""
    record(
        REQUESTS,
        outcome=outcome.value,
        error=error or "",
        path=route.path.value if route else _NO_PATH,
        priority=order.priority.value,
    )
    if route is not None and outcome not in _UNCOUNTED:
        result = _deadline_result(outcome, error)
        record(DEADLINES, result=result, priority=order.priority.value)


def measure_success(order: ImagesOrder, drawn: DrawnImages, total_s: float) -> None:
    """Measure what was drawn."""
    route = drawn.route
    path = route.path.value
    record(REQUEST_DURATION, total_s, path=path, priority=order.priority.value)
    record(COST_UNITS, order.cost_units, pool=route.pool, path=path)
    if route.estimate_s > 0:
        record(ESTIMATE_RATIO, total_s / route.estimate_s, pool=route.pool)
    for image in drawn.images:
        for name, seconds in vars(image.times).items():
            if name == "total_s":
                continue
            stage = name.removesuffix("_s")
            record(STAGE_DURATION, seconds, stage=stage, path=path)
            record(STAGE_BUSY, seconds, stage=stage, path=path)


def _deadline_result(outcome: Outcome, error: str | None) -> str:
    if outcome is Outcome.SUCCEEDED:
        return "met"
    return "missed" if error == DeadlineExceededError.code else "failed"
