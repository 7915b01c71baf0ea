"""The server-sent events of a streamed call: OpenAI's names and fields, and what is added.

`image_generation.partial_image` and `image_generation.completed` are those of the official SDK.
It yields events of any other name too, so `image_generation.progress` is sent only if asked for.
"""

from typing import Final, Literal

from pydantic import BaseModel, Field

from deployments.errors import ApiError
from deployments.schemas import ErrorDetail, Timings, Usage

HEARTBEAT: Final = b": heartbeat\n\n"
"""A comment: every parser of events skips it, and every proxy sees that the call is alive."""


class PictureFields(BaseModel):
    """What every event with a picture says."""

    b64_json: str = Field(description="The file, in base64.")
    background: Literal["opaque"] = "opaque"
    created_at: int = Field(description="Seconds since 1970, when the event was made.")
    output_format: Literal["png", "jpeg", "webp"]
    quality: Literal["auto"] = "auto"
    size: str


class PartialImageEvent(PictureFields):
    """A preview of the picture, scaled up to its size."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    partial_image_index: int = Field(
        description="From 0. A reader that is behind misses older ones, and so their numbers."
    )
    step: int
    num_inference_steps: int


class CompletedEvent(PictureFields):
    """The finished picture, which is in the store too."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    seed: int
    key: str = Field(description="The picture's name in the store.")
    model: str
    model_revision: str
    path: Literal["full_image", "tiled"]
    fingerprint: str
    usage: Usage
    timings: Timings


class ProgressEvent(BaseModel):
    """Steps done; sent if `progress_events` asks for it."""

    type: Literal["image_generation.progress"] = "image_generation.progress"
    step: int = Field(description="Steps done, from 1.")
    num_inference_steps: int


class ErrorEvent(BaseModel):
    """Why the stream ends without a picture."""

    error: ErrorDetail
    status: int = Field(description="The HTTP status that the call would have had.")
    retry_after_s: int | None = None


def to_sse(event: PartialImageEvent | CompletedEvent | ProgressEvent) -> bytes:
    """Frame an event; JSON has no line breaks, so it is one line of data."""
    return _frame(event.type, event)


def to_error_sse(error: ApiError) -> bytes:
    """Frame an error in the form in which the SDK raises it."""
    event = ErrorEvent.model_validate(
        {**error.to_body(), "status": error.status, "retry_after_s": error.retry_after_s}
    )
    return _frame("error", event)


def _frame(name: str, event: BaseModel) -> bytes:
    return f"event: {name}\ndata: {event.model_dump_json()}\n\n".encode()
