"""How messages spell a value of a body: as JSON has it, and short. Pure."""

import math
from typing import Any, Final

_MOST_CHARACTERS: Final = 64
_CONSTANTS: Final = {None: "null", True: "true", False: "false"}


def say(value: Any) -> str:
    """Return a value's text: `null`, `true`, `NaN`, `'text'`, `8.5`."""
    if value is None or isinstance(value, bool):
        return _CONSTANTS[value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list | dict):
        return say_kind(value)
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def say_kind(value: Any) -> str:
    """Return what a value is, and how long, without its content."""
    match value:
        case None | bool():
            return say(value)
        case str():
            return f"a string of {_count(len(value), 'character')}"
        case list():
            return f"a list of {_count(len(value), 'item')}"
        case dict():
            return f"an object of {_count(len(value), 'field')}"
        case _:
            return "a number"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
