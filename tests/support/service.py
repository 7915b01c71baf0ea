"""A whole service, started by its own command as a user would."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

READY_WITHIN_S = 240.0
STOPPED_WITHIN_S = 30.0


@dataclass(frozen=True)
class Service:
    """A running service."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path


@contextlib.contextmanager
def run_service(
    folder: Path, *options: str, environment: dict[str, str] | None = None
) -> Iterator[Service]:
    """Run `zimage-serve run` on a free port until the context ends."""
    port = free_port()
    log = folder / "service.log"
    command = [sys.executable, "-m", "deployments.cli", "run", "--port", str(port), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        service = Service(f"http://127.0.0.1:{port}", process, log)
        try:
            _wait_until_ready(service)
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOPPED_WITHIN_S)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and service.process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{service.url}/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.25)
    raise AssertionError(f"the service did not start:\n{service.log.read_text()}")
