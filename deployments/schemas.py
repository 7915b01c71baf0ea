"""Bodies of the HTTP contract: OpenAI's images API, and what is added to it."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    computed_field,
    field_validator,
    model_validator,
)

from pipeline.request import MAX_SEED, MAX_STEPS

MAX_IMAGES = 10
MAX_PARTIAL_IMAGES = 3


class ImagesRequest(BaseModel):
    """The body of `POST /v1/images/generations`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prompt: str = Field(min_length=1, description="What to draw, in any language.")
    model: str | None = Field(default=None, description="A name of `GET /v1/models`.")
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = Field(
        default=None, description="Pictures; number i has seed `seed + i`."
    )
    size: str | None = Field(
        default=None,
        description="`WIDTHxHEIGHT`, each divisible by 16, or `auto`, the model's own size.",
        examples=["1024x1024"],
    )
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description="Quality of `jpeg` and `webp`; 100 or nothing for `png`."
    )
    user: Annotated[str, Field(max_length=256)] | None = Field(
        default=None, description="The caller's own name for its end user; never stored."
    )
    quality: Literal["auto", "standard"] | None = Field(
        default=None, description="Taken at OpenAI's default; steps set the quality here."
    )
    style: Literal["vivid"] | None = Field(
        default=None, description="Taken at OpenAI's default; the prompt sets the style here."
    )
    background: Literal["auto", "opaque"] | None = Field(
        default=None, description="Taken at OpenAI's default; the model draws no transparency."
    )
    moderation: Literal["auto"] | None = Field(
        default=None, description="Taken at OpenAI's default; this service does not moderate."
    )

    stream: bool | None = Field(
        default=None, description="Answer with server-sent events; takes `n` of 1."
    )
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL_IMAGES)] | None = Field(
        default=None, description="Previews on the way of a stream, at evenly spaced steps."
    )
    progress_events: bool | None = Field(
        default=None, description="Also send `image_generation.progress` in a stream, every step."
    )

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        default=None, description="The same seed gives the same noise; drawn if not given."
    )
    num_inference_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance_scale: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        default=None, description="0.0 for a distilled model."
    )
    priority: Literal["interactive", "batch"] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] | None = Field(
        default=None, description="Seconds until the answer is of no use."
    )
    path: Literal["auto", "full_image", "tiled"] | None = Field(
        default=None, description="Pin it to have the same bytes whatever the load."
    )

    @field_validator("prompt")
    @classmethod
    def _prompt_is_text(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("must not be blank")
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ValueError("must be valid Unicode, without lone surrogates")
        return prompt

    @model_validator(mode="after")
    def _seeds_stay_in_range(self) -> Self:
        n = self.n or 1
        if self.seed is not None and self.seed + n - 1 > MAX_SEED:
            raise ValueError(
                f"seed + n - 1 must be at most {MAX_SEED}, got seed {self.seed} and n {n}"
            )
        return self


class ImageItem(BaseModel):
    """One picture of an answer."""

    url: str | None = None
    b64_json: str | None = None
    seed: int
    key: str = Field(description="The picture's name in the store.")
    fingerprint: str | None = Field(
        default=None, description="Equal requests have equal bytes within one."
    )


class InputTokensDetails(BaseModel):
    """What the input consists of."""

    text_tokens: int
    image_tokens: Literal[0] = 0


class Usage(BaseModel):
    """What the call consumed."""

    input_tokens: int = Field(description="Tokens of the templated prompt.")
    output_tokens: int = Field(description="Image tokens of all pictures.")
    total_tokens: int
    cost_units: float = Field(description="Work; 1 is one forward at 512x512.")

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way
    @property
    def input_tokens_details(self) -> InputTokensDetails:
        """The input, which is all text; the official SDK requires the field."""
        return InputTokensDetails(text_tokens=self.input_tokens)


class Timings(BaseModel):
    """Milliseconds of each stage's own work, of the slowest picture where there are several."""

    encode_ms: float
    queue_ms: float
    denoise_ms: float
    decode_ms: float
    file_ms: float
    store_ms: float
    total_ms: float


class Routing(BaseModel):
    """Which pool drew, and why it was chosen."""

    pool: str
    reason: Literal["pinned", "preferred", "least_cost", "only", "cold"]
    explanation: str = Field(description="The choice in one line, as the log has it.")
    estimate_ms: float = Field(description="What was expected of `timings.total_ms`.")


class ImagesResponse(BaseModel):
    """The answer of `POST /v1/images/generations`."""

    created: int = Field(description="Seconds since 1970.")
    data: list[ImageItem]
    model: str
    model_revision: str
    path: Literal["full_image", "tiled"]
    fingerprint: str | None = Field(
        default=None, description="That of every picture; absent where theirs differ."
    )
    size: str
    output_format: Literal["png", "jpeg", "webp"]
    usage: Usage
    timings: Timings
    routing: Routing


class ModelItem(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    revision: str


class ModelList(BaseModel):
    """The answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelItem]


class Health(BaseModel):
    """The answer of `/healthz` and `/readyz`."""

    status: str
    pools: dict[str, bool] = Field(
        default_factory=dict, description="Whether a picture has been drawn by each pool."
    )
    open_calls: int = Field(
        default=0, description="Calls that this router has taken and not answered; reads are none."
    )


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "A field breaks a rule."},
    401: {"model": ErrorResponse, "description": "No valid key was given."},
    404: {"model": ErrorResponse, "description": "No such model or file."},
    408: {"model": ErrorResponse, "description": "The body did not arrive in time."},
    409: {"model": ErrorResponse, "description": "The idempotency key had another body."},
    413: {"model": ErrorResponse, "description": "The body is too large."},
    415: {"model": ErrorResponse, "description": "The body is compressed, or not called JSON."},
    429: {"model": ErrorResponse, "description": "Too many requests; see `Retry-After`."},
    431: {"model": ErrorResponse, "description": "The headers are too large."},
    500: {"model": ErrorResponse, "description": "A defect of the service."},
    503: {"model": ErrorResponse, "description": "Overloaded; see `Retry-After`."},
    504: {"model": ErrorResponse, "description": "Not finished in time."},
}

FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/*": {}}, "description": "The picture."},
    206: {"content": {"image/*": {}}, "description": "The part that `Range` asks for."},
    304: {"description": "The caller has it: `If-None-Match` names its `ETag`."},
    400: ERROR_RESPONSES[400],
    403: {"model": ErrorResponse, "description": "The signature is wrong or has expired."},
    404: ERROR_RESPONSES[404],
    408: ERROR_RESPONSES[408],
    412: {"model": ErrorResponse, "description": "`If-Match` names another picture."},
    416: {"model": ErrorResponse, "description": "The range has no byte of the picture."},
    431: ERROR_RESPONSES[431],
    503: ERROR_RESPONSES[503],
}

STREAM_RESPONSE: dict[str, Any] = {
    "content": {"text/event-stream": {}},
    "description": "The pictures, or with `stream` the events of one: "
    "`image_generation.partial_image`, `image_generation.completed`, `error`, and "
    "`image_generation.progress` if `progress_events` asks for it.",
}
