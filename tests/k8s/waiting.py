"""Waiting for what another process will do."""

import time
from collections.abc import Callable
from typing import Final

import httpx

_POLL_S: Final = 0.25


def wait_until(
    is_true: Callable[[], bool],
    *,
    within_s: float,
    what: str,
    explain: Callable[[], str] = str,
) -> None:
    """Ask until the answer is yes; a refused connection or a missing key is a no."""
    deadline = time.monotonic() + within_s
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if is_true():
                return
        except (httpx.HTTPError, KeyError, OSError) as exc:
            last = exc
        time.sleep(_POLL_S)
    raise AssertionError(
        f"{what} must come within {within_s:g} s, last heard {last!r}\n{explain()}"
    )
