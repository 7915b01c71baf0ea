"""The autoscaler takes a pool's nodes from none to three and back, by the pool's own demand."""

import concurrent.futures
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from fake_nodes import run_autoscaled_ray
from service import Service, run_service

pytestmark = [pytest.mark.serve, pytest.mark.slow]

CONFIG = {
    "pools": [
        {
            "name": "consumer-16gb",
            "profile": "consumer-16gb",
            "accelerator": "CPU",
            "device": "cpu",
            "num_gpus": 1,
            "num_threads": 1,
            "label_selector": {"pool": "consumer-16gb"},
            "min_replicas": 0,
            "max_replicas": 3,
            "start_up_s": 20.0,
            "graceful_shutdown_timeout_s": 5.0,
            "scaling": {"drain_s": 1.0, "down_delay_s": 1.0, "to_zero_delay_s": 2.0},
        }
    ],
    "router": {"label_selector": {"pool": "cpu"}, "graceful_shutdown_timeout_s": 2.0},
    "text_encoder": {"label_selector": {"pool": "cpu"}, "graceful_shutdown_timeout_s": 2.0},
    "vae_decoder": {"label_selector": {"pool": "cpu"}, "graceful_shutdown_timeout_s": 2.0},
}
CONSUMER_NODE = {
    "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 100_000_000},
    "labels": {"pool": "consumer-16gb"},
    "node_config": {},
    "min_workers": 0,
    "max_workers": 3,
}
WITHIN_S = 180.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def service(folder: Path, tiny_model: Path) -> Iterator[Service]:
    config = folder / "zimage.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    with run_autoscaled_ray(folder, {"consumer": CONSUMER_NODE}) as address:
        options = ("--config", str(config), "--model", str(tiny_model), "--address", address)
        store = ("--store", str(folder / "images"))
        environment = {"RAY_AUTH_MODE": "disabled"}
        with run_service(folder, *options, *store, environment=environment) as service:
            yield service


def _num_nodes(folder: Path) -> int:
    """Count the nodes that the autoscaler started: each has a raylet."""
    lines = (" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"]))
    return sum("/raylet/raylet" in line and str(folder) in line for line in lines) - 1


def _wait_for_nodes(folder: Path, count: int) -> None:
    deadline = time.monotonic() + WITHIN_S
    while _num_nodes(folder) != count:
        assert time.monotonic() < deadline, _num_nodes(folder)
        time.sleep(0.2)


def _draw(service: Service, seed: int) -> int:
    body = {
        "prompt": "x",
        "size": "256x256",
        "num_inference_steps": 50,
        "seed": seed,
        "timeout_s": 280,
    }
    return httpx.post(f"{service.url}/v1/images/generations", json=body, timeout=300).status_code


def test_nodes_come_with_the_load_and_go_with_it(folder: Path, service: Service) -> None:
    _wait_for_nodes(folder, 0)

    with concurrent.futures.ThreadPoolExecutor(32) as threads:
        calls = [threads.submit(_draw, service, seed) for seed in range(32)]
        most = 0
        while not all(call.done() for call in calls):
            most = max(most, _num_nodes(folder))
            time.sleep(0.2)

    assert {call.result() for call in calls} == {200}
    assert most == 3
    _wait_for_nodes(folder, 0)
