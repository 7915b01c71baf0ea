"""Jobs read over HTTP while routers may die."""

import time
from collections.abc import Mapping
from typing import Any, Final

import httpx

WITHIN_S: Final = 300.0
_PAUSE_S: Final = 0.1


def finish_job(url: str, id: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a job when it has ended."""
    deadline = time.monotonic() + WITHIN_S
    while (job := read_job(url, id, headers))["status"] in ("queued", "running"):
        assert time.monotonic() < deadline, job
        time.sleep(_PAUSE_S)
    return job


def read_job(url: str, id: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read a job, from whichever router answers."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            answer = httpx.get(f"{url}/v1/images/jobs/{id}", headers=headers, timeout=30)
            if answer.status_code < 500 and _is_the_services(answer):
                return dict(answer.raise_for_status().json())
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"job {id} cannot be read"
        time.sleep(_PAUSE_S)


def _is_the_services(answer: httpx.Response) -> bool:
    """Tell a router's answer from that of a proxy that has just started and knows no router."""
    return bool(answer.headers.get("content-type", "").startswith("application/json"))
