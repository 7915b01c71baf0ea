"""Calls under an idempotency key: executed once, however often and wherever they arrive."""

import asyncio
import contextlib
import contextvars
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry import context as otel_context
from pydantic import BaseModel

from cluster.errors import ClusterError, LeaseLostError, RecordStoreError
from cluster.jobs.idempotency import IdempotencyStore, IdempotentCall, Verdict
from deployments.error_mapping import to_api_error
from deployments.errors import InvalidFieldError, KeyConflictError
from deployments.jobs.outcomes import StoredOutcome
from deployments.log import logger
from deployments.store_threads import StoreThreads
from pipeline.errors import InvalidRequestError

IDEMPOTENCY_KEY: Final = "idempotency-key"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Origin:
    """What every execution of a call has in common, so that all make the same."""

    nonce: str
    """What is drawn at random comes from it."""
    accepted: datetime
    """When the first call came."""


Execute = Callable[[Origin], Awaitable[StoredOutcome]]
"""Does the work of a call."""


class Idempotency:
    """Executes a call once, and gives its outcome to all that come with its key."""

    def __init__(
        self, store: IdempotencyStore, threads: StoreThreads, *, renew_s: float, poll_s: float
    ) -> None:
        self._store = store
        self._threads = threads
        self._renew_s = renew_s
        self._poll_s = poll_s
        self._executions: set[asyncio.Task[StoredOutcome]] = set()

    async def once(self, call: IdempotentCall, execute: Execute) -> StoredOutcome:
        """Return what came of the call; 400 is an outcome too.

        Raises:
            KeyConflictError: If the key came with another call.
            ApiError: If the call failed in a way that may not last; the key may be used again.
        """
        lease = secrets.token_hex(16)
        while True:
            verdict, claim = await self._threads.call(self._store.claim, call, lease)
            if verdict is Verdict.CONFLICT:
                raise KeyConflictError(
                    f"{IDEMPOTENCY_KEY} must be new for a new body", IDEMPOTENCY_KEY
                )
            if verdict is Verdict.REPLAY:
                return StoredOutcome.model_validate_json(claim.outcome or "")
            if verdict in (Verdict.EXECUTE, Verdict.RESUME):
                is_first = verdict is Verdict.EXECUTE
                accepted = datetime.fromtimestamp(self._store.first_claimed_at(claim), UTC)
                origin = Origin(claim.nonce, accepted)
                executing = self._execute(call, lease, origin, execute, is_first=is_first)
                with contextlib.suppress(LeaseLostError):
                    return await self._detach(executing)
            await asyncio.sleep(self._poll_s)

    async def stop(self) -> None:
        """Give up what is executed, so that a retry elsewhere can begin at once."""
        for execution in self._executions:
            execution.cancel()
        await asyncio.gather(*self._executions, return_exceptions=True)

    async def _detach(self, executing: Coroutine[Any, Any, StoredOutcome]) -> StoredOutcome:
        """Execute where the caller's disconnect does not reach: it may ask again for the outcome.

        In a context of its own, since Serve cancels what was called in that of the request; of the
        request's, it keeps the trace.
        """
        context = contextvars.Context()
        context.run(otel_context.attach, otel_context.get_current())
        execution = asyncio.create_task(executing, context=context)
        self._executions.add(execution)
        execution.add_done_callback(self._forget)
        return await asyncio.shield(execution)

    def _forget(self, execution: asyncio.Task[StoredOutcome]) -> None:
        self._executions.discard(execution)
        if not execution.cancelled():
            execution.exception()  # read, or asyncio complains when nobody waits any more

    async def _execute(
        self,
        call: IdempotentCall,
        lease: str,
        origin: Origin,
        execute: Execute,
        *,
        is_first: bool,
    ) -> StoredOutcome:
        keeper = asyncio.create_task(self._keep_lease(call, lease))
        try:
            outcome = await execute(origin)
        except (InvalidFieldError, InvalidRequestError) as exc:
            outcome = StoredOutcome.of_error(to_api_error(exc, request_id=""))
        except BaseException as exc:
            # A store that fails may have kept a job, and a call that is cancelled goes on in its
            # thread: the next execution must have the same nonce, by which it finds that job.
            may_have_acted = isinstance(exc, RecordStoreError | asyncio.CancelledError)
            await self._let_go(call, lease, is_free=is_first and not may_have_acted)
            raise
        finally:
            keeper.cancel()
        try:
            await self._threads.call(self._store.complete, call, lease, outcome.to_json())
        except RecordStoreError as exc:
            logger.warning("an outcome could not be kept under its idempotency key: %s", exc)
        return outcome

    async def _keep_lease(self, call: IdempotentCall, lease: str) -> None:
        while True:
            await asyncio.sleep(self._renew_s)
            try:
                await self._threads.call(self._store.renew, call, lease)
            except LeaseLostError:
                return
            except ClusterError as exc:
                logger.warning("the lease of an idempotency key cannot be renewed: %s", exc)

    async def _let_go(self, call: IdempotentCall, lease: str, *, is_free: bool) -> None:
        let_go = self._store.abandon if is_free else self._store.hand_over
        try:
            await self._threads.call(let_go, call, lease)
        except ClusterError as exc:
            logger.warning("an idempotency key is left to its lease: %s", exc)


def to_call(route: str, owner: str, key: str, body: BaseModel) -> IdempotentCall:
    """Name a call by all that makes it.

    Raises:
        InvalidFieldError: If the key has characters that keys do not have.
    """
    if not _KEY.fullmatch(key):
        raise InvalidFieldError(
            f"{IDEMPOTENCY_KEY} must be 1 to 255 visible ASCII characters", IDEMPOTENCY_KEY
        )
    text = f"{route}\n{body.model_dump_json(exclude_unset=True)}"
    return IdempotentCall(owner, key, hashlib.sha256(text.encode()).hexdigest())
