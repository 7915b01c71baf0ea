"""The processes of a running service, by the names that Ray gives them."""

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from service import Service

TITLES: Final = {
    "router": "ray::ServeReplica:zimage:RouterDeployment",
    "denoiser": "ray::ServeReplica:zimage:DenoiserDeployment",
    "text encoder": "ray::ServeReplica:zimage:TextEncoderDeployment",
    "VAE decoder": "ray::ServeReplica:zimage:VaeDecoderDeployment",
    "ledger": "ray::Ledger",
    "proxy": "ray::ProxyActor",
    "controller": "ray::ServeController",
}
"""How the title of each kind of process begins."""
HELPERS: Final = {
    "autoscaler": "/autoscaler/_private/monitor.py",
    "dashboard": "/dashboard/dashboard.py",
    "log monitor": "/_private/log_monitor.py",
}
"""What is in the command of each process of Ray's that nothing replaces, and nothing needs."""


def find_processes(service: Service, kind: str) -> list[psutil.Process]:
    """Return the living processes of a kind."""
    children = psutil.Process(service.process.pid).children(recursive=True)
    return [process for process in children if _is_a(kind, _title(process))]


def _is_a(kind: str, title: str) -> bool:
    return HELPERS[kind] in title if kind in HELPERS else title.startswith(TITLES[kind])


def await_processes(
    service: Service, kind: str, number: int, *, within_s: float = 120.0
) -> list[psutil.Process]:
    """Wait until so many processes of a kind run, and return them."""
    deadline = time.monotonic() + within_s
    while len(found := find_processes(service, kind)) != number:
        assert time.monotonic() < deadline, f"{len(found)} processes are a {kind}, not {number}"
        time.sleep(0.1)
    return found


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


@dataclass(frozen=True)
class ProcessUse:
    """What all processes of a name hold and have used."""

    memory_kib: int = 0
    """Anonymous resident memory."""
    cpu_s: float = 0.0

    def __add__(self, other: "ProcessUse") -> "ProcessUse":
        return ProcessUse(self.memory_kib + other.memory_kib, self.cpu_s + other.cpu_s)


def use_by_kind(parent: psutil.Process) -> dict[str, ProcessUse]:
    """Return what a process and all below it use, summed by name."""
    uses: dict[str, ProcessUse] = defaultdict(ProcessUse)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            times = process.cpu_times()
        except (OSError, psutil.NoSuchProcess):
            continue  # it has ended in between
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "RssAnon" in fields:
            memory_kib = int(fields["RssAnon"].split()[0])
            uses[name_process(process)] += ProcessUse(memory_kib, times.user + times.system)
    return dict(uses)


def name_process(process: psutil.Process) -> str:
    """Name a process by what it runs; Ray's workers tell their class, and the call in hand."""
    words = _title(process).split()
    if words and words[0].startswith("ray::"):
        return words[0].split(".")[0].split("(")[0]
    scripts = [Path(word).name for word in words[:4] if not word.startswith("-")]
    return " ".join(scripts[:1] if len(scripts) < 2 else scripts[:3])[:60]
