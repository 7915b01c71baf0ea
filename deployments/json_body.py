"""How a body is read: JSON in UTF-8 that names each field once, as RFC 8259 has it."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from deployments.errors import InvalidFieldError
from deployments.json_words import say


class JsonBodyRoute(APIRoute):
    """Reads bodies by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give FastAPI's own handler the request."""
        answer = super().get_route_handler()

        async def answer_strictly(request: Request) -> Response:
            return await answer(_JsonBodyRequest(request.scope, request.receive))

        return answer_strictly


class _JsonBodyRequest(Request):
    async def json(self) -> Any:
        return read_json(await self.body())


def body_model_of(request: Request) -> type[BaseModel] | None:
    """Return the model of the body that the request's route takes, if it takes one."""
    field = getattr(request.scope.get("route"), "body_field", None)
    annotation = None if field is None else field.field_info.annotation
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model else None


def read_json(body: bytes) -> Any:
    """Read a body.

    Raises:
        InvalidFieldError: If it is in UTF-16 or UTF-32, or names a field twice.
        UnicodeDecodeError: If it is in no form of Unicode.
        JSONDecodeError: If it is no JSON.
        RecursionError: If it is nested too deeply.
        ValueError: If it has a number of too many digits.
    """
    encoding = json.detect_encoding(body)
    if not encoding.startswith("utf-8"):
        raise InvalidFieldError("body must be JSON in UTF-8", "body")
    return json.loads(body.decode(encoding), object_pairs_hook=_to_object)


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise InvalidFieldError(
                f"body must name each field once, got {say(name)} twice", "body"
            )
        fields[name] = value
    return fields
