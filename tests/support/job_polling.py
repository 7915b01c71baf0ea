"""Jobs read over HTTP while routers may die."""

import time
from typing import Any, Final

import httpx
from service import Service

WITHIN_S: Final = 300.0
_PAUSE_S: Final = 0.1


def finish_job(service: Service, id: str) -> dict[str, Any]:
    """Return a job when it has ended."""
    deadline = time.monotonic() + WITHIN_S
    while (job := read_job(service, id))["status"] in ("queued", "running"):
        assert time.monotonic() < deadline, job
        time.sleep(_PAUSE_S)
    return job


def read_job(service: Service, id: str) -> dict[str, Any]:
    """Read a job, from whichever router answers."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            answer = httpx.get(f"{service.url}/v1/images/jobs/{id}", timeout=30)
            if answer.status_code < 500:
                return dict(answer.raise_for_status().json())
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"job {id} cannot be read"
        time.sleep(_PAUSE_S)
