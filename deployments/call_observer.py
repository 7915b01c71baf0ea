"""What is told of each call that draws: a span, metrics, one line of log and one usage record."""

import contextlib
import logging
import time
from collections.abc import Iterator
from functools import partial
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace

from cluster.metrics import record
from cluster.spans import end_span, start_span
from cluster.telemetry import (
    ATTR_COST_UNITS,
    ATTR_ESTIMATE_S,
    ATTR_IMAGES_ID,
    ATTR_MODEL,
    ATTR_MODEL_REVISION,
    ATTR_NUM_IMAGES,
    ATTR_PATH,
    ATTR_POOL,
    ATTR_PRIORITY,
    ATTR_REQUEST_ID,
    ATTR_ROUTING_REASON,
    ATTR_SIZE,
    ATTR_STEPS,
    FIRST_PREVIEW,
    ROUTING_DECISIONS,
    SPAN_GENERATE,
    Outcome,
)
from cluster.usage import UsageRecord
from deployments.afterwards import Afterwards
from deployments.call_metrics import measure_end, measure_success
from deployments.drawn_images import DrawnImages
from deployments.generation import ImagesOrder
from deployments.log import logger, write_line
from deployments.outcomes import classify
from deployments.pool_choice import Route
from deployments.refusal_log import leave_line_to_observer
from deployments.served_model import ServedModel
from deployments.usage_ledger import UsageLedger

_LEVELS: Final = {Outcome.FAILED: logging.WARNING}


class ObservedCall:
    """One call, from before it is routed to its end."""

    def __init__(
        self,
        order: ImagesOrder,
        model: ServedModel,
        usage: UsageLedger | None,
        afterwards: Afterwards,
    ) -> None:
        self._order = order
        self._model = model
        self._usage = usage
        self._afterwards = afterwards
        self._started_s = time.monotonic()
        self._route: Route | None = None
        self._drawn: DrawnImages | None = None
        self._has_preview = False
        self._opened: UsageRecord | None = None
        self.span = start_span(SPAN_GENERATE, {})

    async def accept(self, route: Route) -> None:
        """Take note of where the call goes, and write down that it was accepted."""
        self._route = route
        record(ROUTING_DECISIONS, pool=route.pool, path=route.path.value, reason=route.reason.value)
        logger.debug("request %s: %s", self._order.request_id, route.explanation)
        if self._usage is not None:
            self._opened = self._usage.describe(self._order, route)
            await self._usage.open(self._opened)

    def note_preview(self, now_s: float) -> None:
        """Take note of a preview; the first one is measured."""
        if self._route is not None and not self._has_preview:
            self._has_preview = True
            record(FIRST_PREVIEW, now_s - self._started_s, path=self._route.path.value)

    def succeed(self, drawn: DrawnImages) -> None:
        """Take note of what was drawn."""
        self._drawn = drawn

    def end(self, outcome: Outcome, error: str | None = None) -> None:
        """Close the usage record; the rest is told when the answer is on its way."""
        ended_ns, total_s = time.time_ns(), time.monotonic() - self._started_s
        if self._usage is not None and self._opened is not None:
            self._usage.close(
                self._opened, outcome, error=error, total_s=total_s, drawn=self._drawn
            )
        self._afterwards.add(partial(self._tell, outcome, error, total_s, ended_ns))

    def _tell(self, outcome: Outcome, error: str | None, total_s: float, ended_ns: int) -> None:
        self.span.set_attributes(_describe(self._order, self._model, self._route))
        end_span(self.span, outcome, error=error, end_ns=ended_ns)
        measure_end(self._order, self._route, outcome, error)
        if self._drawn is not None:
            measure_success(self._order, self._drawn, total_s)
        self._write_line(outcome, error, total_s)

    def _write_line(self, outcome: Outcome, error: str | None, total_s: float) -> None:
        order, route = self._order, self._route
        fields = {
            "zimage_request_id": order.request_id,
            "images_id": order.id,
            "outcome": outcome.value,
            "error": error,
            "path": route.path.value if route else None,
            "pool": route.pool if route else None,
            "size": str(order.size),
            "num_images": order.num_images,
            "num_inference_steps": order.num_inference_steps,
            "ms": round(1000 * total_s, 1),
        }
        write_line(_LEVELS.get(outcome, logging.INFO), "generate", fields)


class CallObserver:
    """Observes the calls of one router."""

    def __init__(
        self, model: ServedModel, usage: UsageLedger | None, afterwards: Afterwards
    ) -> None:
        self._model = model
        self._usage = usage
        self._afterwards = afterwards

    @contextlib.contextmanager
    def observe(self, order: ImagesOrder) -> Iterator[ObservedCall]:
        """Make the call's span the current one, and tell how the call ended."""
        leave_line_to_observer()
        call = ObservedCall(order, self._model, self._usage, self._afterwards)
        token = otel_context.attach(trace.set_span_in_context(call.span))
        try:
            yield call
        except BaseException as exc:
            call.end(*classify(exc))
            raise
        else:
            call.end(Outcome.SUCCEEDED)
        finally:
            otel_context.detach(token)


def _describe(
    order: ImagesOrder, model: ServedModel, route: Route | None
) -> dict[str, str | int | float]:
    attributes: dict[str, str | int | float] = {
        ATTR_REQUEST_ID: order.request_id,
        ATTR_IMAGES_ID: order.id,
        ATTR_MODEL: model.name,
        ATTR_MODEL_REVISION: model.revision,
        ATTR_SIZE: str(order.size),
        ATTR_STEPS: order.num_inference_steps,
        ATTR_NUM_IMAGES: order.num_images,
        ATTR_PRIORITY: order.priority.value,
        ATTR_COST_UNITS: order.cost_units,
    }
    if route is None:
        return attributes
    return attributes | {
        ATTR_POOL: route.pool,
        ATTR_PATH: route.path.value,
        ATTR_ROUTING_REASON: route.reason.value,
        ATTR_ESTIMATE_S: route.estimate_s,
    }
