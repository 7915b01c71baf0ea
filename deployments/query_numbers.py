"""Numbers of a query string: digits as JSON has them, where pydantic takes `+2`, `02` and `2.0`."""

import re
from typing import Any, Final

from pydantic import BeforeValidator

_DIGITS: Final = re.compile("0|[1-9][0-9]*")


def _check_digits(value: Any) -> Any:
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("must be decimal digits without a leading zero")
    return value


PlainDigits: Final = BeforeValidator(_check_digits)
"""Refuses any other spelling; stands after the bounds of a parameter, else OpenAPI has them not."""
