"""From a body to an order: every rule that depends on the model or on the operator's limits."""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, Self

from deployments.config import AppConfig, LimitsConfig
from deployments.errors import InvalidFieldError, NotFoundError
from deployments.generation import ImagesOrder
from deployments.json_words import say
from deployments.schemas import ImagesRequest
from deployments.served_model import ServedModel
from pipeline.image_file import OutputFormat, check_output_compression
from pipeline.request import SIZE_MULTIPLE, ImageSize, Priority, RenderPath

_SIZE: Final = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
_DRAWN_SEEDS: Final = 2**53
"""Seeds that the server draws stay below what JavaScript's numbers hold exactly."""


@dataclass(frozen=True)
class RequestRules:
    """What a call is checked against."""

    model: ServedModel
    limits: LimitsConfig
    paths: frozenset[RenderPath]
    """Those that this service has a pool for."""
    default_timeout_s: float
    heartbeat_s: float
    stall_timeout_s: float

    @classmethod
    def from_config(cls, config: AppConfig, model: ServedModel) -> Self:
        """Take the rules out of the operator's configuration."""
        return cls(
            model=model,
            limits=config.limits,
            paths=frozenset(pool.path for pool in config.pools),
            default_timeout_s=config.router.default_timeout_s,
            heartbeat_s=config.router.heartbeat_s,
            stall_timeout_s=config.router.stall_timeout_s,
        )

    def to_order(self, body: ImagesRequest, *, request_id: str) -> ImagesOrder:
        """Check a body and give it an id and a seed.

        Raises:
            NotFoundError: If the model is unknown.
            InvalidFieldError: If a field breaks a rule.
            InvalidRequestError: The same, where the pipeline has the rule.
        """
        self._check_model(body.model)
        self._check_prompt(body.prompt)
        self._check_guidance(body.guidance_scale)
        check_stream(body)
        num_images = body.n or 1
        seed = secrets.randbelow(_DRAWN_SEEDS - num_images) if body.seed is None else body.seed
        output_format = OutputFormat(body.output_format or "png")
        check_output_compression(output_format, body.output_compression)
        return ImagesOrder(
            id=f"img-{secrets.token_hex(12)}",
            request_id=request_id,
            accepted=datetime.now(UTC),
            prompt=body.prompt,
            num_images=num_images,
            size=self._parse_size("auto" if body.size is None else body.size),
            seed=seed,
            is_seed_given=body.seed is not None,
            num_inference_steps=body.num_inference_steps or self.model.default_steps,
            priority=Priority(body.priority or "interactive"),
            timeout_s=body.timeout_s or self.default_timeout_s,
            pinned_path=self._check_path(body.path or "auto"),
            output_format=output_format,
            output_compression=body.output_compression,
            num_previews=body.partial_images or 0,
        )

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self.model.name:
            raise NotFoundError(f"model must be {self.model.name!r}, got {name[:128]!r}", "model")

    def _check_prompt(self, prompt: str) -> None:
        num_bytes = len(prompt.encode())
        if num_bytes > self.limits.max_prompt_bytes:
            raise InvalidFieldError(
                f"prompt must have at most {self.limits.max_prompt_bytes} bytes, got {num_bytes}",
                "prompt",
            )

    def _check_guidance(self, guidance_scale: float | None) -> None:
        if guidance_scale:
            raise InvalidFieldError(
                "guidance_scale must be 0.0, since this model is distilled and guidance would "
                f"double the cost and hurt the picture, got {guidance_scale:g}",
                "guidance_scale",
            )

    def _check_path(self, path: Literal["auto", "full_image", "tiled"]) -> RenderPath | None:
        if path == "auto":
            return None
        if RenderPath(path) not in self.paths:
            known = ["auto", *sorted(known.value for known in self.paths)]
            raise InvalidFieldError(f"path must be one of {known} here, got {path!r}", "path")
        return RenderPath(path)

    def _parse_size(self, text: str) -> ImageSize:
        if text == "auto":
            default = self.model.default_size
            self._check_area(default.width, default.height)
            return default
        match = _SIZE.fullmatch(text)
        if match is None:
            raise InvalidFieldError(
                f"size must be 'auto' or WIDTHxHEIGHT in pixels, got {text[:32]!r}", "size"
            )
        width, height = int(match[1]), int(match[2])
        self._check_side("width", width, self.model.max_width)
        self._check_side("height", height, self.model.max_height)
        self._check_area(width, height)
        return ImageSize(height=height, width=width)

    def _check_area(self, width: int, height: int) -> None:
        if width * height > self.limits.max_pixels:
            raise InvalidFieldError(
                f"size must have at most {self.limits.max_pixels} pixels in all, "
                f"got {width * height}",
                "size",
            )

    def _check_side(self, name: str, pixels: int, most: int) -> None:
        if not self.limits.min_side <= pixels <= most:
            raise InvalidFieldError(
                f"size: {name} must be in [{self.limits.min_side}, {most}], got {pixels}", "size"
            )
        if pixels % SIZE_MULTIPLE:
            raise InvalidFieldError(
                f"size: {name} must divide by {SIZE_MULTIPLE}, got {pixels}", "size"
            )


def check_stream(body: ImagesRequest) -> None:
    """Check what a stream can carry.

    Raises:
        InvalidFieldError: If a field does not go with `stream`.
    """
    if not body.stream:
        for name in ("partial_images", "progress_events"):
            if getattr(body, name):
                raise InvalidFieldError(
                    f"{name} must come with stream true, got {say(getattr(body, name))}", name
                )
        return
    if (body.n or 1) != 1:
        raise InvalidFieldError(f"n must be 1 with stream true, got {body.n}", "n")
    if body.response_format == "url":
        raise InvalidFieldError(
            "response_format must be b64_json with stream true, got 'url'", "response_format"
        )


def refuse_stream(body: ImagesRequest, where: str) -> None:
    """Refuse a stream where an answer has to be kept.

    Raises:
        InvalidFieldError: If one is asked for.
    """
    if body.stream:
        raise InvalidFieldError(f"stream must be false {where}, got true", "stream")
