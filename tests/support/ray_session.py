"""What a service's own Ray session shows to the outside: its log files and its metrics."""

import re
import time
from pathlib import Path

import httpx
import psutil
from service import Service


def find_session(service: Service) -> Path:
    """Return the session's folder, which Ray's own processes have in their arguments."""
    for process in psutil.Process(service.process.pid).children(recursive=True):
        match = re.search(r"/tmp/zimage-[^/\s]+/session_[^/\s]+", command_of(process))
        if match is not None:
            return Path(match[0])
    raise AssertionError("no process of Ray's names a session")


def command_of(process: psutil.Process) -> str:
    """Return a process's command line, by which Ray tells the actor in it; empty at its end."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def await_lines(service: Service, text: str, *, within_s: float = 20.0) -> list[str]:
    """Wait for log lines of replicas that contain a text."""
    logs = find_session(service) / "logs" / "serve"
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        lines = [
            line
            for file in logs.glob("replica_*.log")
            for line in file.read_text("utf-8").splitlines()
            if text in line
        ]
        if lines:
            return lines
        time.sleep(0.1)
    raise AssertionError(f"no line has {text!r}")


def await_metrics(port: int, *names: str, within_s: float = 60.0) -> dict[str, list[str]]:
    """Wait until Ray's exporter shows samples of these names, and return their lines."""
    deadline = time.monotonic() + within_s
    samples: dict[str, list[str]] = {}
    while time.monotonic() < deadline:
        samples = parse_samples(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
        if set(names) <= set(samples):
            return samples
        time.sleep(0.5)
    raise AssertionError(f"{set(names) - set(samples)} were not exported")


def parse_samples(text: str) -> dict[str, list[str]]:
    """Group the lines of an exporter's page by the sample's name."""
    samples: dict[str, list[str]] = {}
    for line in text.splitlines():
        name = re.split(r"[{\s]", line, maxsplit=1)[0]
        if name and not line.startswith("#"):
            samples.setdefault(name, []).append(line)
    return samples
