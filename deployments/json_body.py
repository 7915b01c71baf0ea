"""How a body is read: JSON in UTF-8 that names each field once, as RFC 8259 has it."""

import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from deployments.errors import ContentTypeError, InvalidFieldError
from deployments.json_words import say, say_kind


class JsonBodyRoute(APIRoute):
    """Reads bodies by `read_json`, if they are called JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give FastAPI's own handler the request."""
        answer = super().get_route_handler()
        takes_body = self.body_field is not None

        async def answer_strictly(request: Request) -> Response:
            if takes_body:
                check_content_type(request.headers.get("content-type"))
            return await answer(_JsonBodyRequest(request.scope, request.receive))

        return answer_strictly


class _JsonBodyRequest(Request):
    async def json(self) -> Any:
        return read_json(await self.body())


def check_content_type(given: str | None) -> None:
    """Refuse a body that is not called JSON.

    Raises:
        ContentTypeError: If its type is neither `application/json` nor `application/*+json`.
    """
    # Parsed as FastAPI does, which would take the bytes of any other for the body's value.
    message = Message()
    message["content-type"] = given or "text/plain"
    subtype = message.get_content_subtype()
    is_json = subtype == "json" or subtype.endswith("+json")
    if message.get_content_maintype() != "application" or not is_json:
        got = say(given) if given else "none"
        raise ContentTypeError(f"content-type must be application/json, got {got}", "content-type")


def body_model_of(request: Request) -> type[BaseModel] | None:
    """Return the model of the body that the request's route takes, if it takes one."""
    field = getattr(request.scope.get("route"), "body_field", None)
    annotation = None if field is None else field.field_info.annotation
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model else None


def read_json(body: bytes) -> dict[str, Any]:
    """Read a body.

    Raises:
        InvalidFieldError: If it is no object, is in UTF-16 or UTF-32, or names a field twice.
        UnicodeDecodeError: If it is in no form of Unicode.
        JSONDecodeError: If it is no JSON.
        RecursionError: If it is nested too deeply.
        ValueError: If it has a number of too many digits.
    """
    encoding = json.detect_encoding(body)
    if not encoding.startswith("utf-8"):
        raise InvalidFieldError("body must be JSON in UTF-8", "body")
    value = json.loads(body.decode(encoding), object_pairs_hook=_to_object)
    if not isinstance(value, dict):
        raise InvalidFieldError(f"body must be a JSON object, got {say_kind(value)}", "body")
    return value


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise InvalidFieldError(
                f"body must name each field once, got {say(name)} twice", "body"
            )
        fields[name] = value
    return fields
