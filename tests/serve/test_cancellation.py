"""A reader that leaves stops the steps, through Serve's proxy and two handles."""

import contextlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import ray
from local_service import local_config
from paced import IngressDeployment, PacedDeployment
from ray import serve
from ray.serve.config import HTTPOptions
from service import free_port

from deployments.commands.cluster import ray_cluster

pytestmark = pytest.mark.serve

NUM_STEPS = 50


def ray_cluster_with_tests(
    environment: pytest.MonkeyPatch,
) -> contextlib.AbstractContextManager[None]:
    """Start a cluster whose replicas find the modules of the tests."""
    folder = Path(inspect.getfile(PacedDeployment)).parent
    environment.setenv(
        "PYTHONPATH", f"{folder}{os.pathsep}{folder.parent}{os.pathsep}{folder.parent.parent}"
    )
    return ray_cluster(None)


@pytest.fixture(scope="module")
def url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cancellation") / "store"
    port = free_port()
    paced = serve.deployment(ray_actor_options={"num_cpus": 0.1})(PacedDeployment).bind()
    ingress = serve.deployment(ray_actor_options={"num_cpus": 0.1})(
        serve.ingress()(IngressDeployment)
    )
    with pytest.MonkeyPatch.context() as environment, ray_cluster_with_tests(environment):
        serve.start(http_options=HTTPOptions(port=port))
        serve.run(ingress.bind(local_config(tiny_model, folder), paced), name="streams")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()  # type: ignore[no-untyped-call]
    assert not ray.is_initialized()


def _steps_of_last_run() -> int:
    handle = serve.get_deployment_handle("PacedDeployment", "streams")
    return int(handle.wait_for_last_run.remote().result(timeout_s=30))


def _read_until(url: str, text: str) -> None:
    body = {
        "prompt": "x",
        "size": "64x64",
        "num_inference_steps": NUM_STEPS,
        "stream": True,
        "progress_events": True,
    }
    with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=30) as answer:
        next(line for line in answer.iter_lines() if text in line)


def test_a_stream_that_is_read_takes_every_step(url: str) -> None:
    _read_until(url, "image_generation.completed")

    assert _steps_of_last_run() == NUM_STEPS


def test_a_caller_that_waits_for_a_whole_picture_and_leaves_stops_the_steps(url: str) -> None:
    body = {"prompt": "x", "size": "64x64", "num_inference_steps": NUM_STEPS}

    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/images/generations", json=body, timeout=0.4)

    assert _steps_of_last_run() < NUM_STEPS


def test_a_reader_that_leaves_stops_the_steps(url: str) -> None:
    _read_until(url, '"step":3,')

    assert _steps_of_last_run() < NUM_STEPS
