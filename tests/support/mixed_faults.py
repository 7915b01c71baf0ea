"""A mixed cluster of small pictures, one order after another, and everything in it that can die."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from fault_load import FaultRun, Order, RetryingClient, Victim, replica, run_under_kills
from service import Service, run_service

from deployments.commands.mixed_nodes import mixed_defaults
from deployments.commands.tour import STOPS

SHAPES: Final = (
    ("128x128", "auto"),
    ("192x128", "full_image"),
    ("192x128", "tiled"),
    ("64x64", "auto"),
)
NUM_SEEDS: Final = 5
VICTIMS: Final = (
    replica("DenoiserDeployment-h800", costs_pictures=True),
    replica("TextEncoderDeployment"),
    replica("DenoiserDeployment-consumer-16gb", costs_pictures=True),
    Victim("ledger", "ray::Ledger"),
    replica("RouterDeployment", costs_pictures=True),
    replica("VaeDecoderDeployment"),
    replica("TileCoordinatorDeployment-consumer-16gb", costs_pictures=True),
    Victim("HTTP proxy", "ray::ProxyActor"),
    Victim("node consumer-2", "/consumer-2 ", costs_pictures=True, is_node=True),
    Victim("controller", "ray::ServeController"),
)
"""One of every deployment, the actors that join them, and a worker node."""
_TILE_SIZE: Final = 16
_LEASE_S: Final = 3.0
_TOUR_WITHIN_S: Final = 300.0


def make_order(index: int) -> Order:
    """Return the `index`th picture: every shape with every seed in turn."""
    size, path = SHAPES[index % len(SHAPES)]
    return Order(size, path, seed=index // len(SHAPES) % NUM_SEEDS, num_inference_steps=4)


@contextlib.contextmanager
def run_mixed(
    folder: Path, environment: dict[str, str], settings: dict[str, Any] | None = None
) -> Iterator[Service]:
    """Run the cluster with tiles so small that pictures of 192x128 have two."""
    file = folder / "zimage.yaml"
    file.write_text(yaml.safe_dump({**_config(), **(settings or {})}), "utf-8")
    options = ("--mixed", "--config", str(file), "--store", str(folder / "images"))
    with run_service(folder, *options, environment=environment) as service:
        _await_tour(service)
        yield service


def _await_tour(service: Service) -> None:
    """Wait until the pictures that `--mixed` draws by itself are out of the way."""
    deadline = time.monotonic() + _TOUR_WITHIN_S
    sizes = {stop.size for stop in STOPS}
    while sum(line.split()[0] in sizes for line in _lines(service)) < len(STOPS):
        assert time.monotonic() < deadline, service.log.read_text("utf-8")
        time.sleep(0.5)


def _lines(service: Service) -> list[str]:
    return [line for line in service.log.read_text("utf-8").splitlines() if line.strip()]


def _config() -> dict[str, Any]:
    config = mixed_defaults()
    for pool in config["pools"]:
        pool["num_threads"] = 1
    config["pools"][1]["tiling"] = {
        "tile_size": _TILE_SIZE,
        "overlap": _TILE_SIZE // 4,
        "base_max_pixels": 128 * 128,
    }
    return {**config, "jobs": {"lease_s": _LEASE_S}}


def draw_undisturbed(service: Service) -> dict[tuple[str, str, int], bytes]:
    """Draw every picture on both paths; return pixels by size, path and seed."""
    orders = [
        Order(size, path, seed, num_inference_steps=4)
        for size in sorted({size for size, _ in SHAPES})
        for path in ("full_image", "tiled")
        for seed in range(NUM_SEEDS)
    ]
    with RetryingClient(service.url) as client:
        return {(each.size, each.path, each.seed): client.draw(each).pixels for each in orders}


def run_faults(service: Service, num_requests: int, *, interval_s: float) -> FaultRun:
    """Send orders at a steady rate and kill every victim, evenly over the load."""
    kill_every = num_requests // (len(VICTIMS) + 1)
    orders = [make_order(index) for index in range(num_requests)]
    return run_under_kills(
        service,
        orders,
        VICTIMS,
        interval_s=interval_s,
        first_kill=kill_every,
        kill_every=kill_every,
    )
