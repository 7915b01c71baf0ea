"""`serveConfigV2` of every overlay: what Serve and the application will take."""

import tomllib
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema

from deployments.app import build_app
from deployments.config import AppConfig, PoolConfig, ReplicaConfig
from deployments.denoiser import DenoiserDeployment
from deployments.router import RouterDeployment
from deployments.text_encoder import TextEncoderDeployment
from deployments.vae_decoder import VaeDecoderDeployment
from tests.k8s.manifests import (
    MANIFESTS,
    RENDERED,
    REPOSITORY,
    application_args,
    containers,
    pod_specs,
    rayservice,
    serve_config,
    worker_groups,
)

GPU = "nvidia.com/gpu"
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


def deployment_name(pool: PoolConfig) -> str:
    return f"{DenoiserDeployment.__name__}-{pool.name}"


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
        or each.num_cpus > float(room[each.label_selector["pool"]]["cpu"])
    ] == []


@pytest.mark.parametrize("folder", RENDERED)
def test_settings_of_deployments_name_deployments_that_exist(folder: str) -> None:
    names = {
        RouterDeployment.__name__,
        TextEncoderDeployment.__name__,
        VaeDecoderDeployment.__name__,
        *(deployment_name(pool) for pool in app_config(folder).pools),
    }
    (application,) = serve_config(folder)["applications"]

    assert {each["name"] for each in application.get("deployments", [])} <= names


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
