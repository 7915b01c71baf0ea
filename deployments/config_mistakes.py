"""What is told of a value that breaks a rule of the configuration, and what may be a secret.

A value is repeated unless it may be one: in place of a section, under a name that says so, or
where it reads like a URL or a key. Then its type is told.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretStr

_SECRET_WORDS: Final = frozenset({"key", "keys", "password", "secret", "token", "url"})
_SECRET_LIKE: Final = re.compile(r"://|\A(?:whsec_|zs-)")
_BOUNDS: Final = ("greater_than", "less_than")
_TYPES: Final = {int: "a number", float: "a number", list: "a list", dict: "a mapping"}


def explain_mistake(error: Any, root: type[BaseModel]) -> str:
    """Make a line of one of pydantic's errors about `root`."""
    place = _locate(error["loc"], root)
    name = ".".join(place.path)
    if error["type"] == "extra_forbidden":
        names = sorted({name for section in place.known for name in section.model_fields})
        near = difflib.get_close_matches(place.path[-1], names, n=1, cutoff=0.0)
        return f"{name}: no such key, did you mean {'.'.join((*place.path[:-1], *near))}?"
    if error["type"] == "union_tag_invalid":
        expected, tag = error["ctx"]["expected_tags"], error["ctx"]["tag"]
        got = describe_type(tag) if _SECRET_LIKE.search(tag) else repr(tag)
        return f"{name}.kind: must be one of {expected}, got {got}"
    # A rule that is about a whole section may have no name before it.
    return ": ".join(part for part in (name, _to_rule(error)) if part) + _tell_value(error, place)


def describe_type(value: Any) -> str:
    """Say what a value is without saying it."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str):
        return f"a string of {len(value)} characters"
    return _TYPES.get(type(value), f"a {type(value).__name__}")


def _to_rule(error: Any) -> str:
    """Return pydantic's message in the words of YAML, without what it puts before our own."""
    if error["type"] == "tuple_type":
        return "must be a list"
    return str(error["msg"]).removeprefix("Value error, ")


@dataclass
class _Place:
    path: list[str] = field(default_factory=list)
    known: list[type[BaseModel]] = field(default_factory=list)
    """The sections that may have the last part of the path."""
    is_section: bool = True
    is_secret: bool = False


def _locate(parts: tuple[int | str, ...], root: type[BaseModel]) -> _Place:
    sections = [root]
    place = _Place(known=sections)
    for part in parts:
        narrowed = [section for section in sections if _kind(section) == part]
        if narrowed and len(sections) > 1:
            sections = narrowed
            continue
        place.known = sections
        place.path.append(str(part))
        if isinstance(part, int):
            continue
        types = [each for section in sections for each in _types_of(section, part)]
        inner = [each for each in types if issubclass(each, BaseModel)]
        place.is_section, place.is_secret = bool(inner), SecretStr in types
        sections = inner or sections
    return place


def _tell_value(error: Any, place: _Place) -> str:
    value = error["input"]
    if error["type"] == "tuple_type":
        return f", got {describe_type(value)}"
    if isinstance(value, Mapping | list | tuple):
        return ""
    if error["type"].startswith(_BOUNDS):
        return f", got {value!r}"
    may_be_secret = (
        place.is_section
        or place.is_secret
        or any(_SECRET_WORDS.intersection(part.split("_")) for part in place.path)
        or (isinstance(value, str) and _SECRET_LIKE.search(value))
    )
    return f", got {describe_type(value) if may_be_secret else repr(value)}"


def _kind(section: type[BaseModel]) -> str | None:
    """Return the tag by which a discriminated union knows its member."""
    field = section.model_fields.get("kind")
    return None if field is None else str(get_args(field.annotation)[0])


def _types_of(section: type[BaseModel], key: str) -> list[type[Any]]:
    field = section.model_fields.get(key)
    return [] if field is None else _flatten(field.annotation)


def _flatten(annotation: Any) -> list[type[Any]]:
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [each for argument in get_args(annotation) for each in _flatten(argument)]
