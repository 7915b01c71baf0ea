"""Steady load for a long time: memory of every process, errors, and files that were answered for.

    python tests/benchmarks/soak.py [--minutes 30] [--in-flight 2] [--model FOLDER]

Memory is anonymous resident memory (`RssAnon`), by kind of process; "flat" compares the medians of
the second and of the last quarter of the run, after what is filled once has been filled.
Ends with 1 if a call failed, a file is missing, or a kind of process grew by more than `--growth`.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from service import run_service

MARK = "SOAK_RUN"
SAMPLE_S = 10.0
NUM_PROMPTS = 100
"""They come again, so that caches bounded in bytes are full before memory is compared."""


@dataclass
class Load:
    """What came of the calls so far."""

    keys: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--growth", type=float, default=0.03, help="share that still is flat")
    options = parser.parse_args()
    mark, load = uuid.uuid4().hex, Load()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "images"
        arguments = ("--model", options.model, "--store", str(store))
        with run_service(Path(folder), *arguments, environment={MARK: mark}) as service:
            stop = threading.Event()
            with ThreadPoolExecutor(options.in_flight) as pool:
                callers = [
                    pool.submit(_call_until, stop, service.url, load, index)
                    for index in range(options.in_flight)
                ]
                samples = _sample_until(time.monotonic() + 60 * options.minutes, mark)
                stop.set()
            for caller in callers:
                caller.result()
        missing = [key for key in load.keys if not (store / key).is_file()]
    return _report(load, missing, samples, options.growth)


def _call_until(stop: threading.Event, url: str, load: Load, index: int) -> None:
    with httpx.Client(timeout=120) as client:
        number = 0
        while not stop.is_set():
            number += 1
            body = {"prompt": f"a red circle, {number % NUM_PROMPTS}", "size": "256x256"}
            started = time.monotonic()
            answer = client.post(f"{url}/v1/images/generations", json={**body, "seed": index})
            if answer.status_code == 200:
                load.keys.append(answer.json()["data"][0]["key"])
                load.latencies_s.append(time.monotonic() - started)
            else:
                load.errors.append(f"{answer.status_code} {answer.text[:200]}")


def _sample_until(deadline: float, mark: str) -> list[dict[str, int]]:
    samples = []
    while time.monotonic() < deadline:
        time.sleep(SAMPLE_S)
        samples.append(_memory_by_kind(mark))
    return samples


def _memory_by_kind(mark: str) -> dict[str, int]:
    """Return KiB of anonymous memory, summed over processes of one name."""
    memory: dict[str, int] = defaultdict(int)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() not in (process / "environ").read_bytes().split(b"\0"):
                continue
            status = (process / "status").read_text()
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended in between
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "RssAnon" in fields:
            memory[_name(command)] += int(fields["RssAnon"].split()[0])
    return dict(memory)


def _name(command: list[bytes]) -> str:
    """Name a process by what it runs; Ray's workers tell their class, and the call in hand."""
    words = [word.decode(errors="replace") for word in command if word]
    if words and words[0].startswith("ray::"):
        return words[0].split(".")[0].split("(")[0].rstrip()
    scripts = [Path(word).name for word in words[:4] if not word.startswith("-")]
    return " ".join(scripts[:1] if len(scripts) < 2 else scripts[:3])[:60]


def _report(
    load: Load, missing: list[str], samples: list[dict[str, int]], growth_bound: float
) -> int:
    quarter = max(1, len(samples) // 4)
    print(f"{'process':60} {'second quarter MiB':>19} {'last MiB':>9} {'growth %':>9}")
    grown = []
    for name in sorted({name for sample in samples for name in sample}):
        early, late = (
            statistics.median(sample.get(name, 0) for sample in part) / 1024
            for part in (samples[quarter : 2 * quarter], samples[-quarter:])
        )
        growth = late / early - 1 if early else 0.0
        # Below 4 MiB it is the noise of small processes.
        if growth > growth_bound and late - early > 4:
            grown.append(name)
        print(f"{name:60} {early:19.1f} {late:9.1f} {100 * growth:9.1f}")
    latencies = statistics.quantiles(load.latencies_s, n=20)
    print(
        f"{len(load.keys)} pictures, {len(load.errors)} errors, {len(missing)} files missing; "
        f"latency median {latencies[9]:.2f} s, 95 % {latencies[18]:.2f} s"
    )
    for text in (*load.errors[:5], *missing[:5]):
        print("  ", text)
    print("grown: " + ", ".join(grown) if grown else "flat")
    return 1 if grown or load.errors or missing else 0


if __name__ == "__main__":
    sys.exit(main())
