"""pydantic's findings in OpenAI's form: the field, the rule and the value, never the prompt."""

import difflib
from typing import Any, Final

from fastapi.exceptions import RequestValidationError

from deployments.errors import InvalidFieldError
from deployments.schemas import ImagesRequest

_VALUE_LENGTH: Final = 64
_PRIVATE_FIELDS: Final = frozenset({"prompt", "user", "url"})


def explain_validation_error(exc: RequestValidationError) -> InvalidFieldError:
    """Turn the first finding into the error that the caller gets."""
    error = exc.errors()[0]
    source, *place = error["loc"] or ("body",)
    kind = error["type"]
    if kind == "json_invalid":
        return InvalidFieldError(f"body must be JSON, {_json_reason(error)}", "body")
    if not place:
        return InvalidFieldError(
            "body must be a JSON object, sent as application/json", str(source)
        )
    field = ".".join(str(part)[:_VALUE_LENGTH] for part in place)
    if kind == "extra_forbidden":
        return InvalidFieldError(f"{field} must be a known field{_nearest(field)}", field)
    if kind == "missing":
        return InvalidFieldError(f"{field} must be given", field)
    return InvalidFieldError(f"{field}: {_rule(error)}{_value(place, error['input'])}", field)


def _json_reason(error: Any) -> str:
    return str(error.get("ctx", {}).get("error", "it could not be parsed"))


def _nearest(field: str) -> str:
    near = difflib.get_close_matches(field, ImagesRequest.model_fields, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


def _rule(error: Any) -> str:
    message = str(error["msg"])
    for prefix in ("Value error, ", "Input should be ", "Input should have "):
        if message.startswith(prefix):
            rule = message.removeprefix(prefix)
            return rule if prefix == "Value error, " else f"must be {rule}"
    return message[0].lower() + message[1:]


def _value(place: list[Any], value: Any) -> str:
    if not _PRIVATE_FIELDS.isdisjoint(place) or isinstance(value, dict | list):
        return f", got {type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else ""
    text = repr(value)
    return f", got {text if len(text) <= _VALUE_LENGTH else text[:_VALUE_LENGTH] + '…'}"
