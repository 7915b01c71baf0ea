"""pydantic's findings in OpenAI's form: the field, the rule and the value, never the prompt."""

import difflib
from typing import Any, Final

from fastapi.exceptions import RequestValidationError

from deployments.errors import InvalidFieldError
from deployments.schemas import ImagesRequest

_VALUE_LENGTH: Final = 64
_REASONS: Final = {
    "quality": "since num_inference_steps sets the quality here",
    "style": "since the prompt sets the style here",
    "background": "since the model draws no transparency",
    "moderation": "since this service does not moderate",
}
"""Why a field of OpenAI's is taken at its default only."""
_VERBS: Final = {
    "Value error, ": "",
    "Input should be ": "must be ",
    "Input should have ": "must have ",
    "String should have ": "must have ",
}
"""How pydantic begins a message, and how this service says it."""
_PRIVATE_FIELDS: Final = frozenset({"prompt", "user", "url"})


def explain_validation_error(exc: RequestValidationError) -> InvalidFieldError:
    """Turn the first finding into the error that the caller gets."""
    error = exc.errors()[0]
    source, *place = error["loc"] or ("body",)
    kind = error["type"]
    if kind == "json_invalid":
        return InvalidFieldError(f"body must be JSON, {_json_reason(error)}", "body")
    if kind == "value_error" and not place:
        message = _rule(error)
        return InvalidFieldError(message, message.split(" ", 1)[0])
    if kind == "string_unicode" and not place:
        return InvalidFieldError("body must have names of fields without lone surrogates", "body")
    if not place:
        return InvalidFieldError(
            "body must be a JSON object, sent as application/json", str(source)
        )
    field = ".".join(str(part)[:_VALUE_LENGTH] for part in place)
    if kind == "extra_forbidden":
        return InvalidFieldError(f"{field} must be a known field{_nearest(field)}", field)
    if kind == "missing":
        return InvalidFieldError(f"{field} must be given", field)
    reason = f", {_REASONS[field]}" if field in _REASONS else ""
    value = _value(place, error["input"])
    return InvalidFieldError(f"{field}: {_rule(error)}{reason}{value}", field)


def explain_unreadable_body(cause: BaseException | None) -> InvalidFieldError:
    """Say why a body could not even be parsed."""
    if isinstance(cause, RecursionError):
        return InvalidFieldError("body must nest its values less deeply", "body")
    if isinstance(cause, UnicodeDecodeError):
        return InvalidFieldError("body must be JSON in UTF-8", "body")
    return InvalidFieldError("body must be JSON with numbers of at most 4300 digits", "body")


def _json_reason(error: Any) -> str:
    return str(error.get("ctx", {}).get("error", "it could not be parsed"))


def _nearest(field: str) -> str:
    near = difflib.get_close_matches(field, ImagesRequest.model_fields, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


def _rule(error: Any) -> str:
    message = str(error["msg"])
    for prefix, verb in _VERBS.items():
        if message.startswith(prefix):
            return verb + message.removeprefix(prefix)
    return message[0].lower() + message[1:]


def _value(place: list[Any], value: Any) -> str:
    if not _PRIVATE_FIELDS.isdisjoint(place) or isinstance(value, dict | list):
        size = f" of {len(value)}" if hasattr(value, "__len__") else ""
        return f", got {type(value).__name__}{size}"
    text = repr(value)
    return f", got {text if len(text) <= _VALUE_LENGTH else text[:_VALUE_LENGTH] + '…'}"
