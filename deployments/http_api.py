"""The HTTP contract as a FastAPI application. HTTP only: what to draw is decided elsewhere."""

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette import routing
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from deployments.admission import Admission, Charge, may_use, to_order
from deployments.answer_json import write_answer
from deployments.call_count import CallCount, CallCountMiddleware
from deployments.documented_api import DocumentedApi
from deployments.drawn_images import DrawnImage, DrawnImages
from deployments.error_mapping import MAPPED_ERRORS, to_api_error
from deployments.errors import ApiError, NotFoundError
from deployments.event_response import EventStreamResponse
from deployments.files import SignedFiles
from deployments.generation import (
    EventListener,
    Generation,
    ImagesOrder,
)
from deployments.jobs.api import IdempotencyKey
from deployments.jobs.composition import Jobs
from deployments.jobs.outcomes import Draw
from deployments.json_body import JsonBodyRoute, body_model_of
from deployments.keys import KeyMiddleware, KeyRing
from deployments.middleware import (
    BodyLimitMiddleware,
    HeadMiddleware,
    RequestIdMiddleware,
    has_head,
    to_response,
)
from deployments.page.docs import add_docs
from deployments.page.routes import PageLimits, add_page
from deployments.pool_choice import Route
from deployments.query_numbers import PlainDigits
from deployments.readiness import Readiness
from deployments.refusal_log import RefusalLogMiddleware
from deployments.schemas import (
    ERROR_RESPONSES,
    FILE_RESPONSES,
    STREAM_RESPONSE,
    Health,
    ImageItem,
    ImagesRequest,
    ImagesResponse,
    ModelItem,
    ModelList,
    Routing,
    Timings,
    Usage,
)
from deployments.streaming import ImageStream
from deployments.validation import RequestRules, refuse_stream
from deployments.validation_errors import explain_unreadable_body, explain_validation_error

GENERATIONS = "/v1/images/generations"
_CODES = {405: "method_not_allowed"}
_TOLD_CHARACTERS = 128


class ImagesApi:
    """The routes, bound to what answers them."""

    def __init__(
        self,
        generation: Generation,
        rules: RequestRules,
        readiness: Readiness,
        files: SignedFiles | None,
        *,
        url_lifetime_s: int,
        keys: KeyRing | None,
        admission: Admission,
        build_jobs: Callable[[Draw], Jobs],
        background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        self._generation = generation
        self._rules = rules
        self._readiness = readiness
        self._files = files
        self._url_lifetime_s = url_lifetime_s
        self._keys = keys
        self._admission = admission
        self._background = background
        self._calls = CallCount()
        self._started = int(time.time())
        self._jobs = build_jobs(self.draw)

    def build(self) -> FastAPI:
        """Return the ASGI application."""
        app = DocumentedApi(
            title="zimage-serve",
            description="Text to image on Ray Serve, in the form of OpenAI's images API.",
            lifespan=self._lifespan,
            telemetry={"tracing": False},
            # A redirect would be to the scheme that a gateway speaks here, and lose the key.
            redirect_slashes=False,
            docs_url=None,
            redoc_url=None,
        )
        app.asks_for_keys = self._keys is not None
        app.router.route_class = JsonBodyRoute
        app.post(
            GENERATIONS,
            response_model=ImagesResponse,
            response_model_exclude_none=True,
            responses={200: STREAM_RESPONSE, **ERROR_RESPONSES},
        )(self.generate)
        app.get("/v1/models", responses={401: ERROR_RESPONSES[401]})(self.list_models)
        app.get(
            "/v1/models/{id:path}",
            responses={401: ERROR_RESPONSES[401], 404: ERROR_RESPONSES[404]},
        )(self.read_model)
        app.get("/healthz")(self.health)
        app.get("/readyz", responses={503: {"model": Health}})(self.ready)
        if self._files is not None:
            app.get(
                "/v1/files/{key:path}",
                response_class=Response,
                responses=FILE_RESPONSES,
            )(self.read_file)
        add_page(app, PageLimits.from_rules(self._rules))
        add_docs(app)
        self._jobs.api.add_to(app)
        _add_error_handlers(app)
        app.add_middleware(HeadMiddleware)
        app.add_middleware(
            BodyLimitMiddleware,
            limit_of=self._body_limit,
            timeout_s=self._rules.limits.body_timeout_s,
        )
        app.add_middleware(KeyMiddleware, keys=self._keys)
        app.add_middleware(RequestIdMiddleware)
        app.add_middleware(RefusalLogMiddleware)
        app.add_middleware(CallCountMiddleware, count=self._calls)
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(run()) for run in self._background]
        # First: a router that is held takes no job either.
        await self._readiness.start()
        await self._jobs.start()
        yield
        self._readiness.stop()
        await self._jobs.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def generate(
        self, body: ImagesRequest, request: Request, idempotency_key: IdempotencyKey = None
    ) -> Response | EventStreamResponse:
        """Draw pictures from a prompt."""
        if idempotency_key is not None:
            refuse_stream(body, "with an Idempotency-Key")
            once = self._jobs.api.generate_once
            answer = await once(GENERATIONS, self.draw, body, request, idempotency_key)
            return await asyncio.to_thread(_to_json, answer)
        order = to_order(self._rules, body, request)
        charge = await self._admission.admit(request, [order], held_s=order.timeout_s)
        if body.stream:
            order = replace(order, tells_every_step=bool(body.progress_events))
            return await self._stream(order, charge)
        is_base64 = body.response_format == "b64_json"

        def to_answer(drawn: DrawnImages) -> Response:
            return _to_json(self._to_response(order, drawn, is_base64=is_base64))

        async with charge:
            return await self._generation.answer(order, to_answer)

    async def draw(
        self, order: ImagesOrder, on_event: EventListener | None = None
    ) -> ImagesResponse:
        """Draw an order and describe its pictures, with URLs."""
        to_answer = partial(self._to_response, order, is_base64=False)
        return await self._generation.answer(order, to_answer, on_event)

    async def list_models(self, request: Request) -> ModelList:
        """List the models that can be asked for."""
        model = self._rules.model
        return ModelList(
            data=[self._describe_model()] if may_use(model.name, request.state.caller) else []
        )

    async def read_model(self, id: str, request: Request) -> ModelItem:
        """Describe one model."""
        if id != self._rules.model.name or not may_use(id, request.state.caller):
            raise NotFoundError("id must be one of GET /v1/models", "id")
        return self._describe_model()

    async def health(self) -> Health:
        """Tell that the process is up."""
        return Health(status="ok", open_calls=self._calls.num_open)

    async def ready(self, response: Response) -> Health:
        """Tell whether a picture has been drawn by at least one pool."""
        status = self._readiness.status
        if status != "ready":
            response.status_code = 503
        return Health(status=status, pools=self._readiness.pools, open_calls=self._calls.num_open)

    async def read_file(
        self,
        key: str,
        request: Request,
        expires: Annotated[int, Query(ge=0), PlainDigits],
        signature: Annotated[str, Query()],
    ) -> Response:
        """Read a stored picture at its signed URL."""
        if self._files is None:
            raise NotFoundError("no file is served here")
        return await self._files.answer(key, request.headers, expires=expires, signature=signature)

    async def _stream(self, order: ImagesOrder, charge: Charge) -> EventStreamResponse:
        to_answer = partial(self._to_response, order, is_base64=True)

        async def draw(on_event: EventListener) -> ImagesResponse:
            async with charge:
                return await self._generation.answer(order, to_answer, on_event)

        stream = await ImageStream(
            draw,
            order,
            sends_progress=order.tells_every_step,
            heartbeat_s=self._rules.heartbeat_s,
        ).open()
        return EventStreamResponse(
            stream.events(), stream.close, stall_timeout_s=self._rules.stall_timeout_s
        )

    def _describe_model(self) -> ModelItem:
        model = self._rules.model
        return ModelItem(
            id=model.name,
            created=self._started,
            owned_by="zimage-serve",
            revision=model.revision,
        )

    def _body_limit(self, path: str) -> int:
        return self._jobs.api.body_limit(path) or self._rules.limits.max_body_bytes

    def _to_response(
        self, order: ImagesOrder, drawn: DrawnImages, *, is_base64: bool
    ) -> ImagesResponse:
        num_image_tokens = order.size.num_image_tokens * order.num_images
        return ImagesResponse(
            created=int(order.accepted.timestamp()),
            data=[self._to_item(image, is_base64=is_base64) for image in drawn.images],
            model=self._rules.model.name,
            model_revision=self._rules.model.revision,
            path=drawn.route.path.value,
            fingerprint=_common_fingerprint(drawn.images),
            size=str(order.size),
            output_format=order.output_format.value,
            usage=Usage(
                input_tokens=drawn.num_prompt_tokens,
                output_tokens=num_image_tokens,
                total_tokens=drawn.num_prompt_tokens + num_image_tokens,
                cost_units=round(order.cost_units, 3),
            ),
            timings=_to_timings(drawn.images),
            routing=_to_routing(drawn.route),
        )

    def _to_item(self, image: DrawnImage, *, is_base64: bool) -> ImageItem:
        item = ImageItem(seed=image.seed, key=image.key, fingerprint=image.fingerprint)
        if is_base64:
            content = base64.b64encode(image.content).decode("ascii")
            return item.model_copy(update={"b64_json": content})
        url = self._generation.sign(image.key, lifetime_s=self._url_lifetime_s)
        return item.model_copy(update={"url": url})


def _common_fingerprint(images: list[DrawnImage]) -> str | None:
    fingerprints = {image.fingerprint for image in images}
    return fingerprints.pop() if len(fingerprints) == 1 else None


def _to_json(answer: ImagesResponse) -> Response:
    return Response(write_answer(answer), media_type="application/json")


def _to_routing(route: Route) -> Routing:
    return Routing(
        pool=route.pool,
        reason=route.reason.value,
        explanation=route.explanation,
        estimate_ms=1000 * route.estimate_s,
    )


def _to_timings(images: list[DrawnImage]) -> Timings:
    times = [vars(image.times) for image in images]
    longest = {name: max(each[name] for each in times) for name in times[0]}
    return Timings(**{f"{name[:-2]}_ms": 1000 * seconds for name, seconds in longest.items()})


def _methods_of(app: FastAPI, path: str) -> set[str]:
    methods = {
        method
        for route in app.routes
        if isinstance(route, routing.Route) and route.path_regex.fullmatch(path)
        for method in route.methods or ()
    }
    return methods | {"HEAD"} if "GET" in methods and has_head(path) else methods


def _add_error_handlers(app: FastAPI) -> None:
    async def on_invalid_body(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        return to_response(explain_validation_error(exc, body_model_of(request)))

    async def on_http_error(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        if exc.status_code == 400:
            return to_response(explain_unreadable_body(exc.__cause__))
        headers = dict(exc.headers or {})
        message = str(exc.detail)
        path = request.url.path
        if exc.status_code == 404:
            message = f"path must be one that /docs lists, got {path[:_TOLD_CHARACTERS]!r}"
        if exc.status_code == 405:
            # Starlette tells of the first route with this path.
            headers["Allow"] = ", ".join(sorted(_methods_of(app, path)))
            message = f"method must be one of {headers['Allow']}, got {request.method}"
        body = ApiError(message).to_body()
        body["error"] |= {
            "type": "invalid_request_error",
            "code": _CODES.get(exc.status_code, "not_found"),
        }
        return JSONResponse(body, status_code=exc.status_code, headers=headers)

    async def on_error(request: Request, exc: Exception) -> JSONResponse:
        return to_response(to_api_error(exc, request_id=request.state.request_id))

    app.add_exception_handler(RequestValidationError, on_invalid_body)
    app.add_exception_handler(HTTPException, on_http_error)
    for error in (*MAPPED_ERRORS, Exception):
        app.add_exception_handler(error, on_error)
