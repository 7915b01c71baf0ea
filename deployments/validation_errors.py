"""pydantic's findings in OpenAI's form: the field, the rule and the value, never the prompt."""

from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from deployments.errors import InvalidFieldError
from deployments.field_hints import hint_at
from deployments.json_words import say, say_kind

_NAME_LENGTH: Final = 64
_REASONS: Final = {
    "quality": "since num_inference_steps sets the quality here",
    "style": "since the prompt sets the style here",
    "background": "since the model draws no transparency",
    "moderation": "since this service does not moderate",
}
"""Why a field of OpenAI's is taken at its default only."""
_OBJECTS: Final = frozenset({"dict_type", "model_attributes_type", "model_type"})
"""In the place of an object, or of a list of them, there may be anything, even a prompt."""
_RULES: Final = {
    **dict.fromkeys(_OBJECTS, "must be an object"),
    "bool_type": "must be true or false",
    "int_from_float": "must be a valid integer",
    "int_parsing": "must be a valid integer",
    "int_parsing_size": "must be a valid integer",
    "string_unicode": "must have no lone surrogates",
}
"""What this service says where pydantic speaks of Python."""
_ITEMS: Final = {"too_short": ("least", "min_length"), "too_long": ("most", "max_length")}
_VERBS: Final = {
    "Value error, ": "",
    "Input should be ": "must be ",
    "Input should have ": "must have ",
    "String should have ": "must have ",
}
"""How pydantic begins a message, and how this service says it."""
_PRIVATE_FIELDS: Final = frozenset({"prompt", "user", "url"})


def explain_validation_error(
    exc: RequestValidationError, model: type[BaseModel] | None
) -> InvalidFieldError:
    """Turn the first finding into the error that the caller gets; `model` is the body's."""
    error = exc.errors()[0]
    source, *place = error["loc"] or ("body",)
    kind = error["type"]
    if kind == "json_invalid":
        return InvalidFieldError(f"body must be JSON, {_json_reason(error)}", "body")
    if kind == "value_error" and _is_whole(place):
        message = ".".join([*map(str, place), _rule(error)])
        return InvalidFieldError(message, message.split(" ", 1)[0])
    if kind == "string_unicode" and not place:
        return InvalidFieldError("body must have names of fields without lone surrogates", "body")
    if not place:
        return InvalidFieldError("body must be a JSON object, got none", str(source))
    field = ".".join(str(part)[:_NAME_LENGTH] for part in place)
    if kind == "extra_forbidden":
        return InvalidFieldError(f"{field} must be a known field{hint_at(place, model)}", field)
    if kind == "missing":
        return InvalidFieldError(f"{field} must be given", field)
    name = str(place[-1])
    reason = f", {_REASONS[name]}" if name in _REASONS else ""
    is_private = kind in {*_OBJECTS, "list_type"} or not _PRIVATE_FIELDS.isdisjoint(place)
    value = (say_kind if is_private else say)(error["input"])
    return InvalidFieldError(f"{field}: {_rule(error)}{reason}, got {value}", field)


def explain_unreadable_body(cause: BaseException | None) -> InvalidFieldError:
    """Say why a body could not even be parsed."""
    if isinstance(cause, InvalidFieldError):
        return cause
    if isinstance(cause, RecursionError):
        return InvalidFieldError("body must nest its values less deeply", "body")
    if isinstance(cause, UnicodeDecodeError):
        return InvalidFieldError("body must be JSON in UTF-8", "body")
    return InvalidFieldError("body must be JSON with numbers of at most 4300 digits", "body")


def _json_reason(error: Any) -> str:
    return str(error.get("ctx", {}).get("error", "it could not be parsed"))


def _is_whole(place: list[str | int]) -> bool:
    """Say whether a place is a whole request, whose rules begin with the field's own name."""
    return not place or isinstance(place[-1], int)


def _rule(error: Any) -> str:
    kind, message = error["type"], str(error["msg"])
    if kind in _RULES:
        return _RULES[kind]
    if kind in _ITEMS:
        bound, length = _ITEMS[kind][0], error["ctx"][_ITEMS[kind][1]]
        return f"must have at {bound} {length} {'item' if length == 1 else 'items'}"
    for prefix, verb in _VERBS.items():
        if message.startswith(prefix):
            return verb + message.removeprefix(prefix)
    return message[0].lower() + message[1:]
