"""The very `serveConfigV2` of base: deployed, upgraded, rolled back, and without its head."""

import copy
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from job_polling import finish_job

from deployments.key_file import draw_key, hash_key
from pipeline.image_file import read_provenance
from tests.k8s.load import BODY, calls
from tests.k8s.local_cluster import LocalCluster
from tests.k8s.manifests import Manifest, rayservice, serve_config, worker_groups
from tests.k8s.redis_server import CACHE, DURABLE, redis_of_base, redis_urls
from tests.k8s.scaling import scale_to_machine
from tests.k8s.waiting import wait_until

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.timeout(3600)]

PASSWORD = "a-password"
RUNS_WITHIN_S = 900.0
SMALL_PIXELS = 128 * 128
NUM_JOBS = 100
JOB = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 50}


KEY = draw_key("team-a")
CALLER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    folder = Path(tempfile.mkdtemp(prefix="zk-", dir="/tmp"))
    group = rayservice("base")["spec"]["rayClusterConfig"]["headGroupSpec"]
    with (
        redis_of_base(DURABLE, folder / "durable", password=PASSWORD) as durable,
        redis_of_base(CACHE, folder / "cache", password=PASSWORD) as cache,
    ):
        cluster = LocalCluster(
            folder,
            redis_address=durable,
            redis_password=PASSWORD,
            environment=redis_urls({DURABLE: durable, CACHE: cache}, PASSWORD),
        )
        try:
            cluster.start_head(group)
            for name, worker in worker_groups("base").items():
                # All that the autoscaler would bring: a roll-out needs more than what serves.
                num_gpus = 0 if name == "cpu" else worker["maxReplicas"]
                cluster.start_worker(worker, num_gpus=num_gpus)
            yield cluster
        finally:
            cluster.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def config(cluster: LocalCluster, tiny_model: Path, tmp_path_factory: Any) -> Manifest:
    folder = tmp_path_factory.mktemp("service")
    keys = folder / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": [{"name": "team-a", "hashes": [hash_key(KEY)]}]}))
    config = scale_to_machine(
        serve_config("base"),
        model=tiny_model,
        store=folder / "images",
        keys=keys,
        port=cluster.http_port,
    )
    cluster.deploy(config)
    wait_until(
        lambda: cluster.runs(config),
        within_s=RUNS_WITHIN_S,
        what="the application",
        explain=cluster.logs,
    )
    return config


def _pools_are_ready(cluster: LocalCluster) -> bool:
    return all(httpx.get(f"{cluster.url}/readyz").json()["pools"].values())


def _takes(cluster: LocalCluster, size: str) -> bool:
    answer = httpx.post(
        f"{cluster.url}/v1/images/generations",
        json={**BODY, "size": size},
        headers=CALLER,
        timeout=90,
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


def test_a_cluster_that_runs_has_drawn_a_picture(cluster: LocalCluster, config: Manifest) -> None:
    answer = httpx.get(f"{cluster.url}/readyz")

    assert answer.status_code == 200


def test_both_pools_of_base_answer(cluster: LocalCluster, config: Manifest) -> None:
    wait_until(lambda: _pools_are_ready(cluster), within_s=RUNS_WITHIN_S, what="both pools")

    paths = [
        httpx.post(
            f"{cluster.url}/v1/images/generations",
            json={**BODY, "path": path},
            headers=CALLER,
            timeout=90,
        ).json()["path"]
        for path in ("full_image", "tiled")
    ]

    assert paths == ["full_image", "tiled"]


def test_the_tiles_coordinator_runs_beside_the_routers(
    cluster: LocalCluster, config: Manifest
) -> None:
    deployments = cluster.application()["deployments"]

    actor = deployments["TileCoordinatorDeployment-consumer-16gb"]["deployment_config"]

    assert actor["ray_actor_options"]["label_selector"] == {"pool": "cpu"}


def test_base_asks_for_a_key(cluster: LocalCluster, config: Manifest) -> None:
    answer = httpx.post(f"{cluster.url}/v1/images/generations", json=BODY)

    assert answer.status_code == 401


def test_a_job_is_kept_in_the_durable_redis(cluster: LocalCluster, config: Manifest) -> None:
    jobs = f"{cluster.url}/v1/images/jobs"
    accepted = httpx.post(jobs, json={"prompt": "a red circle", "size": "64x64"}, headers=CALLER)
    id = accepted.json()["id"]

    def is_done() -> bool:
        return bool(httpx.get(f"{jobs}/{id}", headers=CALLER).json()["status"] == "succeeded")

    wait_until(is_done, within_s=RUNS_WITHIN_S, what="the job's picture")
    assert accepted.status_code == 202


def test_an_upgrade_in_place_and_its_roll_back_fail_no_request(
    cluster: LocalCluster, config: Manifest
) -> None:
    upgraded = copy.deepcopy(config)
    upgraded["applications"][0]["args"]["limits"] = {"max_pixels": SMALL_PIXELS}
    before = _takes(cluster, "256x256")

    with calls(cluster.url, CALLER) as load:
        cluster.deploy(upgraded)
        wait_until(
            lambda: cluster.runs(upgraded),
            within_s=RUNS_WITHIN_S,
            what="the upgrade",
            explain=cluster.logs,
        )
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

    with calls(cluster.url, CALLER, callers=1) as load:
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


def test_a_hundred_jobs_have_a_hundred_results_when_the_control_store_dies(
    cluster: LocalCluster, config: Manifest
) -> None:
    group = rayservice("base")["spec"]["rayClusterConfig"]["headGroupSpec"]
    images = Path(config["applications"][0]["args"]["store"]["path"])
    jobs = f"{cluster.url}/v1/images/jobs"

    with httpx.Client(headers=CALLER, timeout=60) as client:
        accepted = [client.post(jobs, json={**JOB, "seed": seed}) for seed in range(NUM_JOBS)]
        ids = [answer.raise_for_status().json()["id"] for answer in accepted]
        latest = client.get(jobs, params={"limit": NUM_JOBS}).raise_for_status().json()["data"]
    cluster.kill_control_store()
    cluster.start_head(group)
    results = [finish_job(cluster.url, id, CALLER) for id in ids]
    wait_until(lambda: _takes(cluster, "64x64"), within_s=RUNS_WITHIN_S, what="a picture")

    items = [item for job in results for item in job["result"]["data"]]
    keys = {item["key"] for item in items}
    seeds = [read_provenance((images / item["key"]).read_bytes()).seed for item in items]
    assert sum(job["status"] in ("queued", "running") for job in latest) > NUM_JOBS // 2
    assert {job["status"] for job in results} == {"succeeded"}
    assert len(keys) == NUM_JOBS
    assert seeds == list(range(NUM_JOBS))
