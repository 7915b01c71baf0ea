"""The routes of jobs and batches. HTTP only: what they mean is in `service.py`."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header, Query, Request, Response

from cluster.jobs.job import JobKind
from cluster.spans import to_carrier
from deployments.admission import Admission, to_order
from deployments.error_mapping import to_api_error
from deployments.errors import InvalidFieldError, NotFoundError
from deployments.event_response import EventStreamResponse
from deployments.generation import ImagesOrder
from deployments.jobs.descriptions import JobDescriber
from deployments.jobs.event_readers import EventReaders
from deployments.jobs.event_stream import (
    has_ended,
    parse_last_event_id,
    stream_events,
)
from deployments.jobs.idempotency import IDEMPOTENCY_KEY, Execute, Idempotency, Origin, to_call
from deployments.jobs.orders import JobItem
from deployments.jobs.outcomes import Draw, OutcomeReader, StoredOutcome
from deployments.jobs.schemas import (
    ACCEPT_RESPONSES,
    CANCEL_RESPONSES,
    EVENT_RESPONSES,
    JOB_RESPONSES,
    MAX_PAGE,
    BatchRequest,
    JobBody,
    JobPage,
    JobRequest,
    Webhook,
)
from deployments.jobs.service import JobService, NewJob, QueuedJob, draw_nonce
from deployments.jobs_config import JobsConfig
from deployments.query_numbers import PlainDigits
from deployments.schemas import ImagesRequest, ImagesResponse
from deployments.validation import RequestRules, refuse_stream
from deployments.webhooks.targets import TargetRules, parse_target
from pipeline.errors import InvalidRequestError

JOBS: Final = "/v1/images/jobs"
BATCHES: Final = "/v1/images/batches"
IdempotencyKey = Annotated[
    str | None, Header(description="The same key and body, within a day, are one call.")
]
LastEventId = Annotated[str | None, Header(description="The `id` of the last event received.")]
_DRAWN_SEEDS: Final = 2**53 - 2**10


@dataclass(frozen=True)
class JobsApi:
    """The routes, bound to what answers them."""

    config: JobsConfig
    rules: RequestRules
    admission: Admission
    targets: TargetRules
    service: JobService
    describer: JobDescriber
    idempotency: Idempotency
    outcomes: OutcomeReader
    event_readers: EventReaders

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        accept: dict[str, Any] = {
            "status_code": 202,
            "responses": ACCEPT_RESPONSES,
            "response_model_exclude_none": True,
        }
        app.post(JOBS, **accept)(self.create)
        app.post(BATCHES, **accept)(self.create_batch)
        app.get(JOBS, responses=JOB_RESPONSES, response_model_exclude_none=True)(self.list_jobs)
        job = f"{JOBS}/{{id}}"
        app.get(job, responses=JOB_RESPONSES, response_model_exclude_none=True)(self.read)
        app.delete(job, responses=CANCEL_RESPONSES, response_model_exclude_none=True)(self.cancel)
        app.get(f"{job}/events", responses=EVENT_RESPONSES, response_class=Response)(self.events)

    def body_limit(self, path: str) -> int | None:
        """Return the longest body of a route of its own kind."""
        return self.config.max_batch_body_bytes if path == BATCHES else None

    async def create(
        self, body: JobRequest, request: Request, idempotency_key: IdempotencyKey = None
    ) -> JobBody:
        """Accept a job, which is drawn later."""
        item = self._to_item(body, request, self.config.default_timeout_s)
        new = self._to_job(JobKind.IMAGE, [item], item.order.timeout_s, body.webhook, request)
        return await self._accept(JOBS, new, body, request, idempotency_key)

    async def create_batch(
        self, body: BatchRequest, request: Request, idempotency_key: IdempotencyKey = None
    ) -> JobBody:
        """Accept many requests as one job, at `batch` priority."""
        if len(body.requests) > self.config.max_batch_requests:
            raise InvalidFieldError(
                f"requests must have at most {self.config.max_batch_requests} items, "
                f"got {len(body.requests)}",
                "requests",
            )
        timeout_s = body.timeout_s or self.config.default_batch_timeout_s
        items = [
            self._to_batch_item(index, each, request, timeout_s)
            for index, each in enumerate(body.requests)
        ]
        new = self._to_job(JobKind.BATCH, items, timeout_s, body.webhook, request)
        return await self._accept(BATCHES, new, body, request, idempotency_key)

    async def read(self, id: str, request: Request) -> JobBody:
        """Read a job, with its result when it has one."""
        return await self.describer.describe(await self.service.read(id, owner_of(request)))

    async def cancel(self, id: str, request: Request) -> JobBody:
        """Cancel a job; what runs stops at its next step."""
        job = await self.service.cancel(id, owner_of(request))
        return await self.describer.describe(job, with_result=False)

    async def list_jobs(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE), PlainDigits] = 20,
        after: Annotated[str | None, Query(description="The `last_id` of a page.")] = None,
    ) -> JobPage:
        """List the caller's jobs, the latest first, without their results."""
        found = await self.service.list_of(owner_of(request), after=after, limit=limit + 1)
        page = [await self.describer.describe(job, with_result=False) for job in found[:limit]]
        return JobPage(
            data=page, has_more=len(found) > limit, last_id=page[-1].id if page else None
        )

    async def events(
        self, id: str, request: Request, last_event_id: LastEventId = None
    ) -> Response:
        """Follow a job by server-sent events, from `Last-Event-ID` on.

        A stream ends after some minutes; ask again with the `id` of its last event.
        """
        after = parse_last_event_id(last_event_id)
        job = await self.service.read(id, owner_of(request))
        if await has_ended(self.service, job, after=after):
            return Response(status_code=204)
        leave = self.event_readers.enter(owner_of(request))
        events = stream_events(self.service, id, after=after, poll_s=self.config.poll_s)

        async def close() -> None:
            leave()
            await events.aclose()

        return EventStreamResponse(events, close, stall_timeout_s=self.rules.stall_timeout_s)

    async def generate_once(
        self, route: str, draw: Draw, body: ImagesRequest, request: Request, key: str
    ) -> ImagesResponse:
        """Draw under an idempotency key.

        Raises:
            ApiError: If the call fails, or failed when it was executed.
        """
        order = to_order(self.rules, body, request)

        async def execute(origin: Origin) -> StoredOutcome:
            admit = self.admission.admit
            async with await admit(request, [order], held_s=order.timeout_s, nonce=origin.nonce):
                answer = await draw(_fix(order, body, origin), None)
            return StoredOutcome.of_answer(answer, is_base64=body.response_format == "b64_json")

        call = to_call(route, owner_of(request), key, body)
        outcome = await self.idempotency.once(call, execute)
        answer = await self.outcomes.open(_check(outcome))
        if answer is None:
            raise NotFoundError("the idempotency key is a job's", IDEMPOTENCY_KEY)
        return answer

    async def _accept(
        self,
        route: str,
        new: NewJob,
        body: JobRequest | BatchRequest,
        request: Request,
        key: str | None,
    ) -> JobBody:
        if key is None:
            queued = await self._admit(new, request, None)
            return self.describer.describe_queued(queued.job, queued.num_ahead)
        call = to_call(route, new.owner, key, body)
        outcome = await self.idempotency.once(call, self._acceptance(new, request))
        id = _check(outcome).job_id or ""
        return await self.describer.describe(
            await self.service.read(id, new.owner), with_result=False
        )

    async def _admit(self, new: NewJob, request: Request, nonce: str | None) -> QueuedJob:
        """Charge a job once, when it is accepted; while it waits and runs it holds no place."""
        orders = [item.order for item in new.items]
        async with await self.admission.admit(request, orders, held_s=0.0, nonce=nonce):
            return await self.service.accept(new)

    def _acceptance(self, new: NewJob, request: Request) -> Execute:
        async def execute(origin: Origin) -> StoredOutcome:
            # An execution that fell silent may have been charged for it, and kept it.
            if (kept := await self.service.find(origin.nonce)) is not None:
                return StoredOutcome(job_id=kept)
            queued = await self._admit(replace(new, nonce=origin.nonce), request, origin.nonce)
            return StoredOutcome(job_id=queued.job.id)

        return execute

    def _to_job(
        self,
        kind: JobKind,
        items: list[JobItem],
        timeout_s: float,
        webhook: Webhook | None,
        request: Request,
    ) -> NewJob:
        if webhook is not None:
            parse_target(webhook.url, self.targets)
        return NewJob(
            owner=owner_of(request),
            request_id=request.state.request_id,
            kind=kind,
            items=items,
            timeout_s=timeout_s,
            webhook_url=None if webhook is None else webhook.url,
            nonce=draw_nonce(),
            trace=to_carrier(),
        )

    def _to_item(self, body: ImagesRequest, request: Request, timeout_s: float) -> JobItem:
        """Read one request of a job; `timeout_s` is its own unless it names another."""
        refuse_stream(body, "in a job, which has events of its own")
        order = to_order(self.rules, body, request)
        if body.timeout_s is None:
            order = replace(order, timeout_s=timeout_s)
        return JobItem(order, is_base64=body.response_format == "b64_json")

    def _to_batch_item(
        self, index: int, body: ImagesRequest, request: Request, timeout_s: float
    ) -> JobItem:
        place = f"requests.{index}"
        if body.response_format == "b64_json":
            raise InvalidFieldError(
                f"{place}.response_format must be 'url' in a batch, got 'b64_json'",
                f"{place}.response_format",
            )
        if body.priority == "interactive":
            raise InvalidFieldError(
                f"{place}.priority must be 'batch' in a batch, got 'interactive'",
                f"{place}.priority",
            )
        try:
            prioritised = body.model_copy(update={"priority": "batch"})
            return self._to_item(prioritised, request, timeout_s)
        except (InvalidFieldError, InvalidRequestError, NotFoundError) as exc:
            error = to_api_error(exc, request_id=request.state.request_id)
            raise type(error)(f"{place}: {error.message}", f"{place}.{error.param}") from exc


def owner_of(request: Request) -> str:
    """Return whose the call is: the name of its key, or everybody's where there are no keys."""
    return str(request.state.owner)


def _fix(order: ImagesOrder, body: ImagesRequest, origin: Origin) -> ImagesOrder:
    """Take from the key's first call what else each execution has of its own."""
    seed = int(origin.nonce, 16) % _DRAWN_SEEDS if body.seed is None else order.seed
    return replace(
        order,
        id=f"img-{origin.nonce}",
        seed=seed,
        accepted=origin.accepted,
        may_come_again=True,
    )


def _check(outcome: StoredOutcome) -> StoredOutcome:
    if outcome.error is not None:
        raise InvalidFieldError(outcome.error.message, outcome.error.param)
    return outcome
