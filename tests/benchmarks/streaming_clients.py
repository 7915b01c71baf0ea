"""Many streaming clients at once, over models that only take their time.

    python tests/benchmarks/streaming_clients.py [--clients 500] [--replicas 1] [--routers 2]

Proxy, routers, step loops and deployments are the service's own and share this machine with the
clients; the models sleep as long as the real ones take on an H200 at 512x512, eight steps. Each
client asks for one picture after another, with `partial_images` and `progress_events`, or with
`--no-progress` as the official SDK does.

The delay of an event is from the end of its step, or for the finished picture from its file in the
store, to its last byte at the client. Memory is anonymous resident
memory. Ends with 1 if a picture is missing or 99 % of the events take more than `--bound` ms.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from event_reader import ReceivedEvent, StreamRefusedError, read_events
from paced_models import STEP
from paced_service import run_paced_service
from ray_processes import ProcessUse, use_by_kind
from stage_log import StageLogs

from deployments.config import AppConfig

NUM_STEPS = 8
NUM_WARM_UP = 16
SAMPLE_S = 1.0


@dataclass
class Received:
    """What came to all clients."""

    events: list[tuple[int, ReceivedEvent]] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    begun_s: float = field(default_factory=time.monotonic)
    num_open: int = 0
    most_open: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=1, help="of each client")
    parser.add_argument("--ramp", type=float, default=20.0, help="seconds in which clients come")
    parser.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, default=True, help="an event a step"
    )
    parser.add_argument("--partial-images", type=int, default=1)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--routers", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=1, help="denoisers")
    parser.add_argument("--bound", type=float, default=200.0, help="ms, of 99 %% of the events")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with run_paced_service(_to_config(options, folder), folder / "steps") as service:
            asyncio.run(_warm_up(options, service.port))
            idle = use_by_kind(psutil.Process())
            print(f"{options.clients} clients come", flush=True)
            received, most_kib = asyncio.run(_run(options, service.port))
            after = use_by_kind(psutil.Process())
            delays = _to_delays(
                received, _read_steps(service.logs), folder / "images", options.ramp
            )
    _report_use(idle, most_kib, after)
    return _report(options, received, delays)


def _to_config(options: argparse.Namespace, folder: Path) -> AppConfig:
    return AppConfig.model_validate(
        {
            "router": {"num_replicas": options.routers, "max_ongoing_requests": 1024},
            "text_encoder": {"max_ongoing_requests": 1024},
            "vae_decoder": {"max_ongoing_requests": 1024, "min_replicas": 2, "max_replicas": 2},
            "pools": [
                {
                    "profile": "h800",
                    "accelerator": "H200",
                    "device": "cpu",
                    "num_cpus": 0.1,
                    "max_ongoing_requests": 1024,
                    "min_replicas": options.replicas,
                    "max_replicas": options.replicas,
                    "step_loop": {"held_units": 4096},
                }
            ],
            "store": {"path": str(folder / "images")},
        }
    )


async def _warm_up(options: argparse.Namespace, port: int) -> None:
    """Have every process do everything once, which costs it its imports."""
    few = argparse.Namespace(**{**vars(options), "clients": NUM_WARM_UP, "pictures": 1, "ramp": 0})
    received = Received()
    seeds = [-1 - index for index in range(NUM_WARM_UP)]
    await asyncio.gather(*(_read_pictures(few, port, received, seed) for seed in seeds))
    assert not received.errors, received.errors


async def _run(options: argparse.Namespace, port: int) -> tuple[Received, dict[str, int]]:
    """Read all pictures; return the most KiB of memory by kind of process, too."""
    received = Received()
    clients = [
        asyncio.create_task(_read_pictures(options, port, received, index))
        for index in range(options.clients)
    ]
    most: dict[str, int] = defaultdict(int)
    while any(not client.done() for client in clients):
        await asyncio.wait(clients, timeout=SAMPLE_S)
        for kind, use in (await asyncio.to_thread(use_by_kind, psutil.Process())).items():
            most[kind] = max(most[kind], use.memory_kib)
    await asyncio.gather(*clients)
    return received, dict(most)


async def _read_pictures(
    options: argparse.Namespace, port: int, received: Received, index: int
) -> None:
    await asyncio.sleep(max(0.0, options.ramp * index / options.clients))
    received.num_open += 1
    received.most_open = max(received.most_open, received.num_open)
    for number in range(options.pictures):
        seed = NUM_WARM_UP + 1 + index * options.pictures + number
        body = {
            "prompt": f"a red circle, {index}",
            "size": options.size,
            "seed": seed,
            "stream": True,
            "partial_images": options.partial_images,
            "progress_events": options.progress,
            "timeout_s": 300,
        }
        started = time.monotonic()
        try:
            async for event in read_events(port, body):
                received.events.append((seed, event.without_picture()))
            received.latencies_s.append(time.monotonic() - started)
        except (StreamRefusedError, OSError, EOFError) as exc:
            received.errors.append(f"{seed}: {type(exc).__name__} {exc}")
    received.num_open -= 1


def _read_steps(logs: StageLogs) -> dict[tuple[int, int], float]:
    """Return when each step of each picture was done, by seed and step."""
    return {
        (int(event.subject), int(event.name.split()[1])): event.at_s
        for event in logs.read()
        if event.name.startswith(STEP)
    }


def _delay_ms(
    seed: int, event: ReceivedEvent, steps: dict[tuple[int, int], float], images: Path
) -> float:
    fields: dict[str, Any] = event.fields()
    if "step" in fields:
        return 1000 * (event.received_s - steps[seed, fields["step"]])
    stored_at = (images / str(fields["key"])).stat().st_mtime
    return 1000 * (event.received_at - stored_at)


def _to_delays(
    received: Received, steps: dict[tuple[int, int], float], images: Path, ramp_s: float
) -> dict[str, list[float]]:
    """Return the delays by the event's name, and note the errors."""
    delays: dict[str, list[float]] = defaultdict(list)
    for seed, event in received.events:
        if event.name == "error":
            received.errors.append(f"{seed}: {event.data[:300]!r}")
        else:
            delay_ms = _delay_ms(seed, event, steps, images)
            delays[event.name].append(delay_ms)
            is_early = event.received_s < received.begun_s + ramp_s
            delays["while clients come" if is_early else "later"].append(delay_ms)
    return delays


def _report(options: argparse.Namespace, received: Received, delays: dict[str, list[float]]) -> int:
    errors = received.errors
    delays["all"] = delays["while clients come"] + delays["later"]
    print(f"\n{'delay, ms':36} {'events':>7} {'median':>8} {'95 %':>8} {'99 %':>8} {'most':>8}")
    for name, values in delays.items():
        if len(values) < 2:
            continue
        cuts = statistics.quantiles(values, n=100)
        print(
            f"{name:36} {len(values):7} {cuts[49]:8.1f} {cuts[94]:8.1f} {cuts[98]:8.1f} "
            f"{max(values):8.1f}"
        )
    num_pictures = options.clients * options.pictures
    num_completed = len(delays["image_generation.completed"])
    num_steps = NUM_STEPS * num_pictures if options.progress else 0
    cuts = statistics.quantiles(received.latencies_s, n=100)
    print(
        f"\n{num_completed} of {num_pictures} pictures, {received.most_open} clients at once, "
        f"{len(errors)} errors; a picture took {cuts[49]:.1f} s at the median, {cuts[98]:.1f} s at "
        f"99 %; {num_steps - len(delays['image_generation.progress'])} steps were "
        "overtaken by later ones"
    )
    print("\n".join(errors[:5]))
    is_late = statistics.quantiles(delays["all"], n=100)[98] > options.bound
    return 1 if errors or num_completed < num_pictures or is_late else 0


def _report_use(
    before: dict[str, ProcessUse], most_kib: dict[str, int], after: dict[str, ProcessUse]
) -> None:
    print(f"{'':60} {'anonymous memory, MiB':>26}")
    print(f"{'process':60} {'before':>8} {'most':>8} {'after':>8} {'CPU s':>8}")
    for kind in sorted(after):
        begun, ended = before.get(kind, ProcessUse()), after[kind]
        memory = (begun.memory_kib, most_kib[kind], ended.memory_kib)
        print(
            f"{kind:60} "
            + " ".join(f"{kib / 1024:8.1f}" for kib in memory)
            + f" {ended.cpu_s - begun.cpu_s:8.1f}"
        )


if __name__ == "__main__":
    sys.exit(main())
