"""Lets a caller's order in: what its key may ask for, what it has left, and what it is charged."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final

from starlette.requests import Request

from deployments.errors import (
    DeadlineExceededError,
    InvalidFieldError,
    NotFoundError,
    QuotaExceededError,
    UnmeetableDeadlineError,
)
from deployments.generation import ImagesOrder
from deployments.keys import RESPONSE_HEADERS, Caller
from deployments.quota_stores import QuotaStore
from deployments.quotas import UNLIMITED, QuotaLimits, QuotaUse, Reason, windows
from deployments.rate_limit_headers import format_units, to_rate_limit_headers
from deployments.schemas import ImagesRequest
from deployments.validation import RequestRules
from pipeline.errors import DeadlineError
from pipeline.request import Priority

_LEASE_MARGIN_S: Final = 30.0

Charge = contextlib.AbstractAsyncContextManager[object]
"""Is entered while the work goes on; a failure inside gives the units back."""


class Admission:
    """Charges a call when it is accepted."""

    def __init__(self, quotas: QuotaStore) -> None:
        self._quotas = quotas

    async def admit(
        self, request: Request, orders: Sequence[ImagesOrder], *, held_s: float
    ) -> Charge:
        """Charge a call to its caller's key; enter what is returned while it goes on.

        Args:
            request: Whose key, and whose answer has the headers.
            orders: All that the call asks for; at least one.
            held_s: Seconds that the call may go on.

        Raises:
            QuotaExceededError: If the key has used what it may.
            InvalidFieldError: If the call costs more than the key may ever use at once.
            DependencyError: If use cannot be counted.
        """
        caller: Caller = request.state.caller
        limits, call_id = caller.quota, orders[0].id
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
        lease_s = held_s + _LEASE_MARGIN_S
        decision = await self._quotas.charge(
            caller.key_id, limits, units, call_id=call_id, lease_s=lease_s
        )
        headers = to_rate_limit_headers(limits, decision.use, units)
        getattr(request.state, RESPONSE_HEADERS).update(headers)
        if decision.refused is not None:
            raise QuotaExceededError(
                _say_refusal(decision.refused, limits, decision.use, units),
                None,
                math.ceil(decision.retry_after_s),
            )
        return _Charge(self._quotas, caller, units, call_id)


def _say_refusal(reason: Reason, limits: QuotaLimits, use: QuotaUse, units: float) -> str:
    if reason == "concurrency":
        most = limits.max_concurrent_requests
        return f"calls at once must be at most {most} for this key, got {use.num_running + 1}"
    window = windows(use, limits)[reason]
    return (
        f"cost units a {reason} must be at most {format_units(window.limit)} for this key, "
        f"got {format_units(window.used + units)}"
    )


class _Charge:
    """Holds one of the key's places for as long as its call runs.

    A call that the service refuses or fails is given back. One that is too late for its own
    `timeout_s`, or whose caller went away, is not: the work was done.
    """

    def __init__(self, quotas: QuotaStore, caller: Caller, units: float, call_id: str) -> None:
        self._quotas = quotas
        self._caller = caller
        self._units = units
        self._call_id = call_id

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_too_late = isinstance(exc, DeadlineExceededError | DeadlineError)
        is_refused = isinstance(exc, UnmeetableDeadlineError)
        is_refunded = is_refused or (isinstance(exc, Exception) and not is_too_late)
        await self._quotas.finish(
            self._caller.key_id,
            self._caller.quota,
            self._units if is_refunded else 0.0,
            call_id=self._call_id,
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
