"""Letting calls finish before a service stops: Serve itself ends its proxies first."""

import time
from collections.abc import Callable
from typing import Final

import httpx

_POLL_S: Final = 0.1
_ANSWER_S: Final = 2.0
_ANSWERS_A_ROUTER: Final = 4
"""Each call finds a router by chance: after so many answers for each, none is left unasked."""


def drain_calls(
    url: str, *, num_routers: int, within_s: float, is_urged: Callable[[], bool]
) -> None:
    """Wait until no router has a call, but no longer than `within_s`, and not once urged.

    Calls are taken meanwhile: a service that always has one ends after `within_s`. One that does
    not answer has nothing to finish.
    """
    ends_s = time.monotonic() + within_s
    enough = 1 if num_routers == 1 else _ANSWERS_A_ROUTER * num_routers
    num_quiet = 0
    while num_quiet < enough and time.monotonic() < ends_s and not is_urged():
        num_calls = _ask(url)
        if num_calls is None:
            return
        num_quiet = 0 if num_calls else num_quiet + 1
        if num_calls:
            time.sleep(_POLL_S)


def _ask(url: str) -> int | None:
    """Ask the service of this machine itself, whatever proxy the environment names."""
    try:
        answer = httpx.get(f"{url}/healthz", timeout=_ANSWER_S, trust_env=False)
        return int(answer.raise_for_status().json()["open_calls"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
