"""Which bytes a `Range` header asks for (RFC 9110, section 14). Pure."""

import re
from dataclasses import dataclass
from typing import Final

from deployments.errors import EmptyRangeError

_MOST_DIGITS: Final = 32
"""More are in no file's length, and Python reads no number of more than 4300."""
_POSITION: Final = f"[0-9]{{1,{_MOST_DIGITS}}}"
_RANGE: Final = re.compile(rf"bytes=[ \t]*({_POSITION})?-({_POSITION})?[ \t]*", re.IGNORECASE)


@dataclass(frozen=True)
class ByteRange:
    """A part of a file, both ends included."""

    first: int
    last: int


def parse_range(header: str, length: int) -> ByteRange | None:
    """Return the part of `length` bytes that a header asks for; None stands for the whole.

    The whole is also the answer to several ranges, to another unit, and to what is no range.

    Raises:
        EmptyRangeError: If the range has no byte of the file.
    """
    match = _RANGE.fullmatch(header)
    if match is None or length == 0 or match[1] is match[2] is None:
        return None
    if match[1] is None:
        return _tail(int(match[2]), length)
    first, last = int(match[1]), length - 1 if match[2] is None else int(match[2])
    if last < first and match[2] is not None:
        return None
    if first >= length:
        raise EmptyRangeError(
            f"range must begin before byte {length}, where the file ends, got {first}", "range"
        )
    return ByteRange(first, min(last, length - 1))


def _tail(num_bytes: int, length: int) -> ByteRange:
    if num_bytes == 0:
        raise EmptyRangeError("range must have at least 1 byte, got 0", "range")
    return ByteRange(max(0, length - num_bytes), length - 1)
