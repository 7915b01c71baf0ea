"""Jobs on Ray Serve survive the death of the processes that run them."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import httpx
import psutil
import pytest
import yaml
from job_polling import finish_job
from service import Service, run_service

pytestmark = [pytest.mark.serve, pytest.mark.cluster]

NUM_JOBS: Final = 20
BODY: Final = {"prompt": "a red circle", "size": "256x256", "num_inference_steps": 30}


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("jobs")
    config = {
        "router": {"num_replicas": 2},
        "pools": [{"name": "default", "min_replicas": 2, "max_replicas": 2, "num_threads": 1}],
        "jobs": {"lease_s": 3, "max_running_jobs": 4},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    with run_service(
        folder,
        "--config",
        str(file),
        "--model",
        str(tiny_model),
        "--store",
        str(folder / "images"),
    ) as service:
        yield service


def replicas(service: Service, deployment: str) -> list[psutil.Process]:
    """Return the processes of a deployment's replicas, which Ray names in their title."""
    return [
        process
        for process in psutil.Process(service.process.pid).children(recursive=True)
        if any(deployment in word for word in process.cmdline())
    ]


def test_jobs_survive_a_killed_router_and_a_killed_denoiser(service: Service) -> None:
    url = f"{service.url}/v1/images/jobs"
    with ThreadPoolExecutor(4) as threads:
        answers = list(
            threads.map(
                lambda seed: httpx.post(url, json={**BODY, "seed": seed}, timeout=60),
                range(NUM_JOBS),
            )
        )
    ids = [answer.raise_for_status().json()["id"] for answer in answers]
    victims = [replicas(service, name)[0] for name in ("RouterDeployment", "DenoiserDeployment")]
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    jobs = [finish_job(service.url, id) for id in ids]

    assert {job["status"] for job in jobs} == {"succeeded"}
    items = [item for job in jobs for item in job["result"]["data"]]
    assert [item["seed"] for item in items] == list(range(NUM_JOBS))
    assert len({item["key"] for item in items}) == NUM_JOBS
    assert all(httpx.get(item["url"], timeout=30).status_code == 200 for item in items)
