"""Lets a caller's order in: what its key may ask for, what it has left, and what it is charged."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from starlette.requests import Request

from deployments.charges import CallCharge, Charges
from deployments.errors import InvalidFieldError, NotFoundError, QuotaExceededError
from deployments.generation import ImagesOrder
from deployments.keys import RESPONSE_HEADERS, Caller
from deployments.quota_stores import QuotaStore
from deployments.quotas import UNLIMITED, QuotaLimits, QuotaUse, Reason, windows
from deployments.rate_limit_headers import format_units, to_rate_limit_headers
from deployments.schemas import ImagesRequest
from deployments.validation import RequestRules
from pipeline.request import Priority

_LEASE_MARGIN_S: Final = 30.0

Charge = contextlib.AbstractAsyncContextManager[object]
"""Is entered while the work goes on; a failure inside gives the units back."""


class Admission:
    """Charges a call when it is accepted."""

    def __init__(self, quotas: QuotaStore) -> None:
        self._charges = Charges(quotas)

    async def admit(
        self,
        request: Request,
        orders: Sequence[ImagesOrder],
        *,
        held_s: float,
        nonce: str | None = None,
    ) -> Charge:
        """Charge a call to its caller's key; enter what is returned while it goes on.

        Args:
            request: Whose key, and whose answer has the headers.
            orders: All that the call asks for; at least one.
            held_s: Seconds that the call may go on.
            nonce: Of a call under an idempotency key: what a retry takes over while it counts as
                running is charged once, and what is cancelled is left to a retry.

        Raises:
            QuotaExceededError: If the key has used what it may.
            InvalidFieldError: If the call costs more than the key may ever use at once.
            DependencyError: If use cannot be counted.
        """
        caller: Caller = request.state.caller
        limits, call_id = caller.quota, orders[0].id if nonce is None else f"once-{nonce}"
        units = sum(order.cost_units for order in orders)
        if limits == UNLIMITED:
            return contextlib.nullcontext()
        if units > limits.most_units:
            name = "size" if len(orders) == 1 else "requests"
            raise InvalidFieldError(
                f"{name}: n, size and num_inference_steps must cost at most "
                f"{format_units(limits.most_units)} units for this key, got {format_units(units)}",
                name,
            )
        charge = CallCharge(caller, units, call_id, is_handed_over=nonce is not None)
        decision = await self._charges.book(charge, lease_s=held_s + _LEASE_MARGIN_S)
        headers = to_rate_limit_headers(limits, decision.use, units)
        getattr(request.state, RESPONSE_HEADERS).update(headers)
        if decision.refused is not None:
            raise QuotaExceededError(
                _say_refusal(decision.refused, limits, decision.use, units),
                None,
                math.ceil(decision.retry_after_s),
            )
        return self._charges.hold(charge)

    async def run(self) -> None:
        """Wait to be cancelled; then close what use is counted in."""
        await self._charges.run()


def _say_refusal(reason: Reason, limits: QuotaLimits, use: QuotaUse, units: float) -> str:
    if reason == "concurrency":
        most = limits.max_concurrent_requests
        return f"calls at once must be at most {most} for this key, got {use.num_running + 1}"
    window = windows(use, limits)[reason]
    return (
        f"cost units a {reason} must be at most {format_units(window.limit)} for this key, "
        f"got {format_units(window.used + units)}"
    )


def to_order(rules: RequestRules, body: ImagesRequest, request: Request) -> ImagesOrder:
    """Check a body against the service's rules and its caller's key.

    Raises:
        NotFoundError: If the model is unknown, or is none of the key's.
        InvalidFieldError: If a field breaks a rule, or asks for what the key may not have.
        InvalidRequestError: If a field breaks a rule of the pipeline.
    """
    caller: Caller = request.state.caller
    check_model(rules.model.name, caller)
    order = rules.to_order(body, request_id=request.state.request_id)
    return to_callers_order(order, body, caller)


def to_callers_order(order: ImagesOrder, body: ImagesRequest, caller: Caller) -> ImagesOrder:
    """Check an order against its caller's key, and lay its pictures below the key's own prefix.

    A call that names no priority gets `interactive`, or `batch` if that is all the key may have.

    Raises:
        NotFoundError: If the key may not use the model, as if there were none.
        InvalidFieldError: If the key may have no such size or priority.
    """
    if caller.max_pixels is not None and order.size.height * order.size.width > caller.max_pixels:
        raise InvalidFieldError(
            f"size must have at most {caller.max_pixels} pixels for this key, got {order.size}",
            "size",
        )
    priority = order.priority
    if body.priority is None and Priority.INTERACTIVE not in caller.priorities:
        priority = Priority.BATCH
    if priority not in caller.priorities:
        allowed = sorted(each.value for each in caller.priorities)
        raise InvalidFieldError(
            f"priority must be one of {allowed} for this key, got {priority.value!r}", "priority"
        )
    return replace(order, priority=priority, owner_prefix=caller.prefix, key_id=caller.key_id)


def check_model(name: str, caller: Caller) -> None:
    """Refuse a model that the key may not use.

    Raises:
        NotFoundError: As if there were no such model.
    """
    if not may_use(name, caller):
        raise NotFoundError("model must be one of GET /v1/models", "model")


def may_use(name: str, caller: Caller) -> bool:
    """Say whether a key may use a model."""
    return caller.models is None or name in caller.models
