"""Bodies of the routes of jobs and batches."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.jobs.outcomes import JobError
from deployments.schemas import ERROR_RESPONSES, ErrorResponse, ImagesRequest, ImagesResponse

MAX_PAGE = 100


class Webhook(BaseModel):
    """Where to tell that a job began and ended."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: str = Field(
        max_length=2048, description="An `https` URL of a host that the operator allows."
    )


class JobRequest(ImagesRequest):
    """The body of `POST /v1/images/jobs`: that of a generation, and a webhook."""

    webhook: Webhook | None = None


class BatchRequest(BaseModel):
    """The body of `POST /v1/images/batches`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    requests: list[ImagesRequest] = Field(
        min_length=1, description="Each as for `/v1/images/generations`, with URLs as answers."
    )
    timeout_s: Annotated[float, Field(gt=0, le=604_800, allow_inf_nan=False)] | None = Field(
        default=None, description="Seconds from acceptance until the rest is of no use."
    )
    webhook: Webhook | None = None


class BatchItem(BaseModel):
    """What came of one request of a batch."""

    index: int = Field(description="Place of the request, from 0.")
    status: Literal["succeeded", "failed"]
    result: ImagesResponse | None = None
    error: JobError | None = None


class BatchResult(BaseModel):
    """What came of the requests of a batch that are done."""

    data: list[BatchItem]


class JobBody(BaseModel):
    """A job."""

    id: str
    object: Literal["image.job", "image.batch"]
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created: int = Field(description="Seconds since 1970.")
    started: int | None = None
    finished: int | None = None
    expires: int | None = Field(default=None, description="When the job is forgotten.")
    queue_position: int | None = Field(
        default=None, description="Jobs ahead of it, while it is queued."
    )
    estimate_s: float | None = Field(
        default=None, description="Seconds to its end, as far as can be told; until it ends."
    )
    num_requests: int
    result: ImagesResponse | BatchResult | None = None
    error: JobError | None = None


class JobPage(BaseModel):
    """Jobs of one caller, the latest first; results are in the jobs themselves."""

    object: Literal["list"] = "list"
    data: list[JobBody]
    has_more: bool
    last_id: str | None = Field(default=None, description="The `after` of the next page.")


JOB_RESPONSES: dict[int | str, dict[str, Any]] = {
    **{status: ERROR_RESPONSES[status] for status in (400, 401, 404, 408, 431, 500, 503)},
    404: {"model": ErrorResponse, "description": "No such job."},
}

ACCEPT_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: ERROR_RESPONSES[status]
    for status in (400, 401, 404, 408, 409, 413, 415, 429, 431, 500, 503)
}

CANCEL_RESPONSES: dict[int | str, dict[str, Any]] = {
    **JOB_RESPONSES,
    409: {"model": ErrorResponse, "description": "The job has succeeded or failed."},
}

EVENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    **JOB_RESPONSES,
    200: {
        "content": {"text/event-stream": {}},
        "description": "Events until the job ends, or for some minutes.",
    },
    204: {"description": "The last event was received already."},
    429: {"model": ErrorResponse, "description": "The key follows as many jobs as it may."},
}
