"""The dashboard over a load: a service under mixed calls, and its panels as pictures.

    python tests/benchmarks/dashboard_load.py [--seconds 240] [--to k8s/dashboards/pictures]

The service, Ray's exporter and Prometheus are real; the panels are drawn by matplotlib from what
Prometheus answers to the dashboard's own queries. The load rises, falls, and has a burst in which
deadlines are too short.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import yaml

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from dashboard_pictures import TimeRange, draw_dashboard
from prometheus_server import run_prometheus
from service import Service, free_port, run_service

FOLDER = Path(__file__).parents[2] / "k8s" / "dashboards" / "pictures"
CALLERS = (2, 4, 6, 3)
"""How many call at once, in each quarter of the time."""
MIX: tuple[tuple[float, dict[str, Any]], ...] = (
    (0.50, {"size": "64x64"}),
    (0.20, {"size": "64x64", "stream": True, "partial_images": 2}),
    (0.15, {"size": "128x128", "priority": "batch"}),
    (0.10, {"size": "192x192", "path": "tiled"}),
    (0.05, {"size": "256x256"}),
)
NUM_PROMPTS = 100
BURST = (0.45, 0.75)
"""Part of the time in which every third call has no time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--to", type=Path, default=FOLDER)
    options = parser.parse_args()
    command = shutil.which("prometheus")
    if command is None:
        sys.exit("no `prometheus` command: apt-get install prometheus")
    options.to.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(_to_config(folder)))
        arguments = ("--config", str(file), "--metrics-port", str(port))
        with (
            run_service(folder, *arguments, "--store", str(folder / "images")) as service,
            run_prometheus(command, folder / "prometheus", port) as prometheus,
        ):
            prometheus.await_result("ray_zimage_backlog_units")
            started = time.time()
            statuses = _load(service, options.seconds)
            time.sleep(10)  # Ray exports each 10 s
            shown = TimeRange(started, time.time(), "60s")
            for file in draw_dashboard(prometheus, shown, options.to):
                print(f"{file} {file.stat().st_size / 1000:.0f} kB")
    print({status: statuses.count(status) for status in sorted(set(statuses))})


def _to_config(folder: Path) -> dict[str, Any]:
    tiling = {"tile_size": 16, "overlap": 4, "base_max_pixels": 96 * 96}
    return {
        "pools": [
            {"name": "full", "num_threads": 1},
            {"name": "tiles", "num_threads": 1, "path": "tiled", "tiling": tiling},
        ],
        "usage": {
            "enabled": True,
            "journal": str(folder / "journal"),
            "export": {"folder": str(folder / "usage")},
        },
    }


def _load(service: Service, seconds: float) -> list[int]:
    statuses: list[int] = []
    begun, stop = time.monotonic(), threading.Event()

    def part() -> float:
        return (time.monotonic() - begun) / seconds

    def call_on(index: int) -> None:
        draw = random.Random(index)
        with httpx.Client(timeout=120) as client:
            while not stop.is_set():
                if index >= CALLERS[min(3, int(4 * part()))]:
                    time.sleep(0.2)
                    continue
                statuses.append(_call(client, service, draw, part()))

    with ThreadPoolExecutor(max(CALLERS)) as threads:
        callers = [threads.submit(call_on, index) for index in range(max(CALLERS))]
        stop.wait(seconds)
        stop.set()
        for caller in callers:
            caller.result()
    return statuses


def _call(client: httpx.Client, service: Service, draw: random.Random, part: float) -> int:
    [fields] = draw.choices([body for _, body in MIX], [share for share, _ in MIX])
    body = {"prompt": f"a red circle, {draw.randrange(NUM_PROMPTS)}", **fields}
    if BURST[0] <= part < BURST[1] and draw.random() < 1 / 3:
        body["timeout_s"] = 0.05
    return client.post(f"{service.url}/v1/images/generations", json=body).status_code


if __name__ == "__main__":
    main()
