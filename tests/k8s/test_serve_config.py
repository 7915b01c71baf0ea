"""`serveConfigV2` of every overlay: what Serve and the application will take."""

import json
import math
import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema

from deployments.app import build_app
from deployments.config import AppConfig, ReplicaConfig
from deployments.denoiser import DenoiserDeployment
from deployments.memory_plan import max_pixels_in_memory
from deployments.router import RouterDeployment
from deployments.served_model import describe_model
from deployments.text_encoder import TextEncoderDeployment
from deployments.tile_coordinator import TileCoordinatorDeployment
from deployments.vae_decoder import VaeDecoderDeployment
from pipeline.request import RenderPath
from pipeline.weights import Weights
from tests.k8s.manifests import (
    MANIFESTS,
    RENDERED,
    REPOSITORY,
    Manifest,
    application_args,
    containers,
    cpus,
    pod_specs,
    rayservice,
    serve_config,
    worker_groups,
)

GPU = "nvidia.com/gpu"
TRUE_TRANSFORMER = {"dim": 3840, "n_layers": 30, "axes_lens": [1536, 512, 512]}
"""What decides how much memory Z-Image-Turbo takes."""
RAY = next(
    requirement.partition("==")[2]
    for requirement in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"][
        "dependencies"
    ]
    if requirement.startswith("ray[")
)
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]


def app_config(folder: str) -> AppConfig:
    return AppConfig.model_validate(application_args(folder))


def placed(config: AppConfig) -> list[ReplicaConfig]:
    return [config.text_encoder, *config.pools, config.vae_decoder]


def deployment_names(config: AppConfig) -> set[str]:
    return {
        RouterDeployment.__name__,
        TextEncoderDeployment.__name__,
        VaeDecoderDeployment.__name__,
        *(f"{DenoiserDeployment.__name__}-{pool.name}" for pool in config.pools),
        *(
            f"{TileCoordinatorDeployment.__name__}-{pool.name}"
            for pool in config.pools
            if pool.path is RenderPath.TILED
        ),
    }


def deployment_settings(folder: str) -> list[Manifest]:
    (application,) = serve_config(folder)["applications"]
    settings: list[Manifest] = application.get("deployments", [])
    return settings


@pytest.mark.parametrize("folder", RENDERED)
def test_serve_takes_the_configuration(folder: str) -> None:
    schema = ServeDeploySchema.model_validate(serve_config(folder))

    assert [each.import_path for each in schema.applications] == [
        f"{build_app.__module__}:{build_app.__name__}"
    ]


@pytest.mark.parametrize("folder", RENDERED)
def test_the_application_takes_its_arguments(folder: str) -> None:
    assert app_config(folder).pools


@pytest.mark.parametrize("folder", RENDERED)
def test_every_label_selector_is_that_of_a_worker_group(folder: str) -> None:
    config = app_config(folder)
    selectors = [config.router.label_selector, *(each.label_selector for each in placed(config))]
    labels = [group["labels"] for group in worker_groups(folder).values()]

    unmatched = [
        selector
        for selector in selectors
        if not any(selector and selector.items() <= each.items() for each in labels)
    ]

    assert unmatched == []


@pytest.mark.parametrize("folder", RENDERED)
def test_a_replica_fits_a_pod_of_the_group_that_its_labels_choose(folder: str) -> None:
    groups = worker_groups(folder).values()

    room = {
        group["labels"]["pool"]: containers(group["template"]["spec"])[0]["resources"]["limits"]
        for group in groups
    }

    assert [
        each
        for each in placed(app_config(folder))
        if each.num_gpus > int(room[each.label_selector["pool"]].get(GPU, 0))
        or each.num_cpus > cpus(room[each.label_selector["pool"]]["cpu"])
    ] == []


@pytest.mark.parametrize("folder", [each for each in RENDERED if each != "overlays/dev"])
def test_a_group_has_room_for_a_replacement_beside_the_most_replicas(folder: str) -> None:
    needed: defaultdict[str, float] = defaultdict(float)
    for each in placed(app_config(folder)):
        needed[each.label_selector["pool"]] += each.num_gpus * each.max_replicas

    pods = {group["labels"]["pool"]: group for group in worker_groups(folder).values()}

    assert {
        pool: (gpus, pods[pool]["maxReplicas"])
        for pool, gpus in needed.items()
        if pods[pool]["maxReplicas"] < math.ceil(gpus) + 1
    } == {}


@pytest.mark.parametrize("folder", RENDERED)
def test_settings_of_deployments_name_deployments_that_exist(folder: str) -> None:
    named = {each["name"] for each in deployment_settings(folder)}

    assert named <= deployment_names(app_config(folder))


@pytest.mark.parametrize("folder", [each for each in RENDERED if each != "overlays/dev"])
def test_replacements_of_every_deployment_start_before_old_replicas_stop(folder: str) -> None:
    settings = deployment_settings(folder)
    surging = {each["name"] for each in settings if each["max_surge_percent"] > 0}

    assert surging == deployment_names(app_config(folder))


@pytest.mark.parametrize("folder", [each for each in RENDERED if each != "overlays/dev"])
def test_overlays_change_only_the_store(folder: str) -> None:
    def without_store(name: str) -> dict[str, Any]:
        config = serve_config(name)
        (application,) = config["applications"]
        args = {key: value for key, value in application["args"].items() if key != "store"}
        return {**config, "applications": [{**application, "args": args}]}

    assert without_store(folder) == without_store("base")


@pytest.mark.parametrize("folder", RENDERED)
def test_every_place_names_pyprojects_versions(folder: str) -> None:
    images = {
        each["image"].rpartition(":")[2]
        for _, pod in pod_specs(folder)
        for each in containers(pod)
        if "zimage-serve" in each["image"]
    }
    cluster = rayservice(folder)["spec"]["rayClusterConfig"]

    assert cluster["rayVersion"] == RAY
    assert images <= {f"{VERSION}-ray{RAY}-{variant}" for variant in ("cpu", "cuda")}


def test_the_image_is_built_on_pyprojects_ray() -> None:
    dockerfile = (MANIFESTS / "image" / "Dockerfile").read_text()
    guide = (MANIFESTS / "README.md").read_text()

    assert f"ARG RAY_VERSION={RAY}\n" in dockerfile
    assert dockerfile.count(f"{VERSION}-ray{RAY}-") == 2
    assert f"{VERSION}-ray{RAY}-cpu" in guide


@pytest.mark.parametrize("folder", RENDERED)
def test_callers_need_a_key_unless_the_overlay_says_so(folder: str) -> None:
    keys = app_config(folder).keys
    has_file = keys.file is not None and keys.file.parent in _secret_mounts(folder)

    assert has_file != keys.insecure_no_keys
    assert keys.insecure_no_keys == (folder == "overlays/dev")


def _secret_mounts(folder: str) -> set[Path]:
    """Return where the pods that routers run in have secrets."""
    selector = app_config(folder).router.label_selector
    (group,) = [
        each
        for each in worker_groups(folder).values()
        if selector.items() <= each["labels"].items()
    ]
    pod = group["template"]["spec"]
    secrets = {each["name"] for each in pod["volumes"] if "secret" in each}
    (container,) = pod["containers"]
    return {
        Path(mount["mountPath"]) for mount in container["volumeMounts"] if mount["name"] in secrets
    }


@pytest.mark.parametrize("folder", [each for each in RENDERED if each != "overlays/dev"])
def test_the_model_is_read_from_the_folder_that_the_head_fills(folder: str) -> None:
    (fetch,) = rayservice(folder)["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"][
        "initContainers"
    ]
    (filled,) = [each["value"] for each in fetch["env"] if each["name"] == "WEIGHTS_FOLDER"]

    assert application_args(folder)["model"]["source"] == filled


@pytest.mark.parametrize("folder", RENDERED)
def test_every_variable_that_the_configuration_names_is_in_every_pod(folder: str) -> None:
    text = rayservice(folder)["spec"]["serveConfigV2"]
    named = set(re.findall(r"env:(\w+)", text))

    missing = [
        (name, variable)
        for name, pod in pod_specs(folder)
        for variable in named - {each["name"] for each in containers(pod)[-1].get("env", [])}
        if name in worker_groups(folder)
    ]

    assert named
    assert missing == []


@pytest.mark.parametrize("folder", RENDERED)
def test_a_roll_out_waits_for_a_picture(folder: str) -> None:
    assert app_config(folder).router.waits_for_picture


@pytest.mark.parametrize("folder", [each for each in RENDERED if each != "overlays/dev"])
def test_kernels_and_precision_of_every_gpu_stage_are_written_down(folder: str) -> None:
    args = application_args(folder)
    both = {"kernels", "precision"}

    assert [pool["step_loop"].keys() >= both for pool in args["pools"]] == [True, True]
    assert args["text_encoder"].keys() >= both
    assert "kernels" in args["vae_decoder"]


@pytest.mark.parametrize("folder", [each for each in RENDERED if each != "overlays/dev"])
def test_the_true_model_fits_every_pool(folder: str, tmp_path: Path) -> None:
    config = app_config(folder)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(TRUE_TRANSFORMER))
    model = describe_model(Weights("Z-Image-Turbo", "a-revision", tmp_path), served_name=None)

    most = [max_pixels_in_memory(pool, config.vae_decoder, model) for pool in config.pools]

    assert min(pixels for each in most for pixels in each) >= config.limits.max_pixels
