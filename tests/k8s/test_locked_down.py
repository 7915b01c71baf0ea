"""`dev` draws as its pods may run: as a user, on a read-only root, without a capability."""

import copy
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import psutil
import pytest

from tests.k8s.local_cluster import LocalCluster
from tests.k8s.manifests import (
    REPOSITORY,
    Manifest,
    find_all,
    rayservice,
    serve_config,
    worker_groups,
)
from tests.k8s.pod_sandbox import GROUP, USER, find_obstacle, sandbox
from tests.k8s.redis_server import CACHE, DURABLE, redis_of_base, redis_urls
from tests.k8s.waiting import wait_until

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(1800)]

DEV: Final = "overlays/dev"
PASSWORD: Final = "a-password"
RUNS_WITHIN_S: Final = 900.0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="zl-", dir="/tmp"))
    writable = folder / "pod"
    writable.mkdir()
    folder.chmod(0o755)
    os.chown(writable, USER, GROUP)
    if (obstacle := find_obstacle(writable, REPOSITORY)) is not None:
        pytest.skip(obstacle)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[LocalCluster]:
    service = rayservice(DEV)["spec"]["rayClusterConfig"]
    with (
        redis_of_base(DURABLE, folder / "durable", password=PASSWORD) as durable,
        redis_of_base(CACHE, folder / "cache", password=PASSWORD) as cache,
    ):
        cluster = LocalCluster(
            folder / "pod",
            redis_address=durable,
            redis_password=PASSWORD,
            environment={
                **_environment(folder / "pod"),
                **redis_urls({DURABLE: durable, CACHE: cache}, PASSWORD),
            },
            wrapper=sandbox(folder / "pod"),
        )
        try:
            cluster.start_head(service["headGroupSpec"])
            cluster.start_worker(worker_groups(DEV)["cpu"], num_gpus=0, num_cpus=2)
            yield cluster
        finally:
            cluster.stop()


def _environment(writable: Path) -> dict[str, str]:
    """Return the pods' variables, with what is written below the one writable folder."""
    (shared,) = [
        each["data"]
        for each in find_all(DEV, "ConfigMap")
        if each["metadata"]["name"].startswith("zimage-environment")
    ]
    paths = {
        name: str(value).replace("/cache", f"{writable}/cache") for name, value in shared.items()
    }
    return {**paths, "HOME": "/", "TMPDIR": str(writable), "PYTHONDONTWRITEBYTECODE": "1"}


def _config(cluster: LocalCluster, writable: Path) -> Manifest:
    config = copy.deepcopy(serve_config(DEV))
    config["http_options"] |= {"host": "127.0.0.1", "port": cluster.http_port}
    (application,) = config["applications"]
    application["args"]["store"] |= {"path": str(writable / "images"), "base_url": cluster.url}
    return config


def test_nothing_but_the_folder_can_be_written_to(folder: Path) -> None:
    words = "touch /tmp/x || touch /opt/x || touch /root/x || touch /x; touch pod/x && echo written"

    result = subprocess.run(
        [*sandbox(folder / "pod"), "sh", "-c", words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.stdout == "written\n"
    assert len(result.stderr.splitlines()) == 4


def test_dev_draws_a_picture(cluster: LocalCluster, folder: Path) -> None:
    config = _config(cluster, folder / "pod")
    cluster.deploy(config)
    wait_until(
        lambda: cluster.runs(config),
        within_s=RUNS_WITHIN_S,
        what="the application",
        explain=cluster.logs,
    )

    answer = httpx.post(
        f"{cluster.url}/v1/images/generations",
        json={"prompt": "a red circle on a blue background"},
        timeout=300,
    )
    picture = httpx.get(answer.json()["data"][0]["url"], timeout=60)

    users = {process.uids().effective for process in cluster.processes() if _is_ray(process)}
    assert picture.content.startswith(b"\x89PNG")
    assert users == {USER}


def _is_ray(process: psutil.Process) -> bool:
    return "raylet" in process.name() or process.name().startswith("ray::")
