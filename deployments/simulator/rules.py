"""What numbers of options and trace files must be; a refusal has the rule and what was given."""

from math import inf, isfinite
from typing import Final

from pipeline.request import MAX_STEPS, SIZE_MULTIPLE

MAX_DURATION_S: Final = 31 * 86_400.0
"""A simulation ticks every second; longer ones are milliseconds or dates by mistake."""

MAX_REQUESTS: Final = 100_000_000
"""They are held in memory, and a million take a minute."""


def read_number(text: str, *, least: float = 0.0, most: float = inf) -> float:
    """Read a finite number within bounds.

    Raises:
        ValueError: If it is not one.
    """
    rule = f"of at least {least:g}" if most == inf else f"in [{least:g}, {most:g}]"
    number = _to_float(text)
    if not (isfinite(number) and least <= number <= most):
        raise ValueError(f"must be a number {rule}, got {text!r}")
    return number


def read_positive(text: str) -> float:
    """Read a finite number above 0.

    Raises:
        ValueError: If it is not one.
    """
    number = _to_float(text)
    if not (isfinite(number) and number > 0):
        raise ValueError(f"must be a number above 0, got {text!r}")
    return number


def read_share(text: str) -> float:
    """Read a number from 0 to 1.

    Raises:
        ValueError: If it is not one.
    """
    return read_number(text, most=1.0)


def read_duration(text: str) -> float:
    """Read the length of a trace in seconds.

    Raises:
        ValueError: If it is negative, or longer than a month.
    """
    return read_number(text, most=MAX_DURATION_S)


def read_count(text: str) -> int:
    """Read a whole number of at least 0.

    Raises:
        ValueError: If it is not one.
    """
    if not _is_whole(text):
        raise ValueError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def read_steps(text: str) -> int:
    """Read `num_inference_steps`.

    Raises:
        ValueError: If the model has no such schedule.
    """
    if not _is_whole(text) or not 1 <= int(text) <= MAX_STEPS:
        raise ValueError(f"must be a whole number in [1, {MAX_STEPS}], got {text!r}")
    return int(text)


def read_side(text: str) -> int:
    """Read a side of a picture, in image pixels.

    Raises:
        ValueError: If the model draws none of that length.
    """
    if not _is_whole(text) or not int(text) or int(text) % SIZE_MULTIPLE:
        raise ValueError(f"must be positive and divide by {SIZE_MULTIPLE}, got {text!r}")
    return int(text)


def _is_whole(text: str) -> bool:
    # So many digits are no size, count or seed, and Python reads no more than 4,300 of them.
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return inf
