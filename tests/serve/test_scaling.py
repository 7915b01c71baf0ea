"""A pool at zero wakes for work, with more than one replica for a burst, and sleeps again."""

import concurrent.futures
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from ray_session import command_of
from service import Service, run_service

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(1200)]

CONFIG = {
    "text_encoder": {"min_replicas": 1, "max_replicas": 2},
    "pools": [
        {
            "name": "cold",
            "num_cpus": 0.1,
            "num_threads": 1,
            "min_replicas": 0,
            "max_replicas": 3,
            "start_up_s": 5.0,
            "scaling": {"drain_s": 1.0, "down_delay_s": 1.0, "to_zero_delay_s": 2.0},
        }
    ],
}
SLEEPS_WITHIN_S = 300.0


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("scaling")
    config = folder / "zimage.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    options = ("--config", str(config), "--model", str(tiny_model), "--store", str(folder / "i"))
    with run_service(folder, *options) as service:
        yield service


def _count_denoisers(service: Service) -> int:
    processes = psutil.Process(service.process.pid).children(recursive=True)
    return sum("DenoiserDeployment-cold" in command_of(each) for each in processes)


def _wait_for_denoisers(service: Service, count: int) -> None:
    deadline = time.monotonic() + SLEEPS_WITHIN_S
    while _count_denoisers(service) != count:
        assert time.monotonic() < deadline, service.log.read_text()
        time.sleep(0.2)


def _draw(service: Service) -> int:
    body = {"prompt": "x", "size": "256x256", "num_inference_steps": 50, "timeout_s": 280}
    return httpx.post(f"{service.url}/v1/images/generations", json=body, timeout=300).status_code


def test_a_pool_goes_to_zero_and_a_burst_wakes_more_than_one_replica(service: Service) -> None:
    _wait_for_denoisers(service, 0)

    with concurrent.futures.ThreadPoolExecutor(24) as threads:
        calls = [threads.submit(_draw, service) for _ in range(24)]
        most = 0
        while not all(call.done() for call in calls):
            most = max(most, _count_denoisers(service))
            time.sleep(0.1)

    assert {call.result() for call in calls} == {200}
    assert most > 1
    _wait_for_denoisers(service, 0)
