"""The very `serveConfigV2` of base: deployed, upgraded, rolled back, and without its head."""

import copy
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.k8s.load import BODY, calls
from tests.k8s.local_cluster import LocalCluster
from tests.k8s.manifests import Manifest, rayservice, serve_config, worker_groups
from tests.k8s.redis_server import durable_redis
from tests.k8s.scaling import scale_to_machine
from tests.k8s.waiting import wait_until

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(900)]

PASSWORD = "a-password"
GPUS = {"h800": 2, "consumer-16gb": 2, "cpu": 0}
"""The second of each is the node that the autoscaler would bring for a roll-out."""
RUNS_WITHIN_S = 240.0
SMALL_PIXELS = 128 * 128


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    folder = Path(tempfile.mkdtemp(prefix="zk-", dir="/tmp"))
    group = rayservice("base")["spec"]["rayClusterConfig"]["headGroupSpec"]
    with durable_redis(folder, password=PASSWORD) as address:
        cluster = LocalCluster(folder, redis_address=address, redis_password=PASSWORD)
        try:
            cluster.start_head(group)
            for name, worker in worker_groups("base").items():
                cluster.start_worker(worker, num_gpus=GPUS[name])
            yield cluster
        finally:
            cluster.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def config(cluster: LocalCluster, tiny_model: Path, tmp_path_factory: Any) -> Manifest:
    store = tmp_path_factory.mktemp("images")
    config = scale_to_machine(
        serve_config("base"), model=tiny_model, store=store, port=cluster.http_port
    )
    cluster.deploy(config)
    wait_until(lambda: cluster.runs(config), within_s=RUNS_WITHIN_S, what="the application")
    wait_until(lambda: _pools_are_ready(cluster), within_s=RUNS_WITHIN_S, what="both pools")
    return config


def _pools_are_ready(cluster: LocalCluster) -> bool:
    return all(httpx.get(f"{cluster.url}/readyz").json()["pools"].values())


def _takes(cluster: LocalCluster, size: str) -> bool:
    answer = httpx.post(
        f"{cluster.url}/v1/images/generations", json={**BODY, "size": size}, timeout=90
    )
    return answer.status_code == 200


def _with_two_vae_decoders(config: Manifest) -> Manifest:
    """Change nothing that restarts a replica."""
    scaled = copy.deepcopy(config)
    (settings,) = [
        each
        for each in scaled["applications"][0]["deployments"]
        if each["name"] == "VaeDecoderDeployment"
    ]
    settings["autoscaling_config"] = {"min_replicas": 2, "max_replicas": 4}
    return scaled


def test_both_pools_of_base_answer(cluster: LocalCluster, config: Manifest) -> None:
    paths = [
        httpx.post(
            f"{cluster.url}/v1/images/generations", json={**BODY, "path": path}, timeout=90
        ).json()["path"]
        for path in ("full_image", "tiled")
    ]

    assert paths == ["full_image", "tiled"]


def test_an_upgrade_in_place_and_its_roll_back_fail_no_request(
    cluster: LocalCluster, config: Manifest
) -> None:
    upgraded = copy.deepcopy(config)
    upgraded["applications"][0]["args"]["limits"] = {"max_pixels": SMALL_PIXELS}
    before = _takes(cluster, "256x256")

    with calls(cluster.url) as load:
        cluster.deploy(upgraded)
        wait_until(lambda: cluster.runs(upgraded), within_s=RUNS_WITHIN_S, what="the upgrade")
        during = _takes(cluster, "256x256")
        cluster.deploy(config)
        wait_until(lambda: cluster.runs(config), within_s=RUNS_WITHIN_S, what="the roll-back")
        after = _takes(cluster, "256x256")

    assert load.failures == []
    assert load.pictures > 20
    assert (before, during, after) == (True, False, True)


def test_requests_are_answered_while_the_head_is_gone_and_scaling_works_after(
    cluster: LocalCluster, config: Manifest
) -> None:
    scaled = _with_two_vae_decoders(config)
    group = rayservice("base")["spec"]["rayClusterConfig"]["headGroupSpec"]

    with calls(cluster.url, callers=1) as load:
        cluster.kill_head()
        without_head = load.pictures
        wait_until(
            lambda: load.pictures >= without_head + 10, within_s=60, what="answers without a head"
        )
        cluster.start_head(group)
        wait_until(lambda: cluster.runs(config), within_s=RUNS_WITHIN_S, what="the application")
        cluster.deploy(scaled)
        wait_until(
            lambda: cluster.num_running("VaeDecoderDeployment") == 2,
            within_s=RUNS_WITHIN_S,
            what="a second replica",
        )

    assert load.failures == []
