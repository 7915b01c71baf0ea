"""Ray's autoscaler takes a pool's nodes from none to three and back, by the pool's own demand."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from fake_nodes import AutoscaledRay, run_autoscaled_ray
from fault_load import Order, RetryingClient
from service import Service, run_service

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(1500)]

ON_HEAD: Final = {"label_selector": {"pool": "cpu"}, "graceful_shutdown_timeout_s": 2.0}
CONFIG: Final[dict[str, Any]] = {
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
            # Serve retires any replica, an idle one or not: what it holds is to be finished.
            "graceful_shutdown_timeout_s": 120.0,
            "scaling": {"drain_s": 1.0, "down_delay_s": 5.0, "to_zero_delay_s": 5.0},
        }
    ],
    "router": ON_HEAD,
    "text_encoder": ON_HEAD,
    "vae_decoder": ON_HEAD,
}
CONSUMER_NODE: Final = {
    "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 100_000_000},
    "labels": {"pool": "consumer-16gb"},
    "node_config": {},
    "min_workers": 0,
    "max_workers": 3,
}
NUM_REQUESTS: Final = 48
GONE_WITHIN_S: Final = 400.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AutoscaledRay]:
    folder = tmp_path_factory.mktemp("ray")
    with run_autoscaled_ray(folder, {"consumer": CONSUMER_NODE}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def service(
    cluster: AutoscaledRay, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("nodes")
    config = folder / "zimage.yaml"
    config.write_text(yaml.safe_dump(CONFIG), "utf-8")
    options = ("--config", str(config), "--model", str(tiny_model), "--address", cluster.address)
    store = ("--store", str(folder / "images"))
    environment = {"RAY_AUTH_MODE": "disabled"}
    with run_service(folder, *options, *store, environment=environment) as service:
        yield service


def _await_no_workers(cluster: AutoscaledRay) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while cluster.count_workers():
        assert time.monotonic() < deadline, cluster.count_workers()
        time.sleep(0.5)


def test_nodes_come_with_the_load_and_go_with_it(cluster: AutoscaledRay, service: Service) -> None:
    _await_no_workers(cluster)
    orders = [Order("256x256", "auto", seed, 50) for seed in range(NUM_REQUESTS)]

    with RetryingClient(service.url) as client, ThreadPoolExecutor(NUM_REQUESTS) as threads:
        calls = [threads.submit(client.draw, order) for order in orders]
        most = 0
        while not all(call.done() for call in calls):
            most = max(most, cluster.count_workers())
            time.sleep(0.5)

    assert len({call.result().key for call in calls}) == NUM_REQUESTS
    assert most == 3
    _await_no_workers(cluster)
