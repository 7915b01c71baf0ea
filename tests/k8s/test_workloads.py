"""Pods: how they are secured, scheduled, drained and replaced."""

import re
from pathlib import Path
from typing import Any

import pytest

from deployments.config import AppConfig
from tests.k8s.manifests import (
    RENDERED,
    Manifest,
    application_args,
    component_overlay,
    containers,
    cpus,
    find_all,
    pod_specs,
    rayservice,
    render,
    worker_groups,
)

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
SPOT_NOTICE_S = 120
SHORT_NOTICE_S = 15
"""What Google leaves to a pod of its 30 seconds."""
DEV_CPUS = 4.0
SYSTEM_CPUS = 1.05
"""What Kubernetes' own pods (0.95) and KubeRay's operator (0.1) ask for on kind."""
HOUSEKEEPING = 0.75
"""Share of a Redis server's memory for its data; the rest is for copies, buffers and fragments."""
UNITS = {"mb": 2**20, "Mi": 2**20, "Gi": 2**30}

GATEWAYS: dict[str, tuple[list[str | None], list[int], list[str]]] = {
    "base": ([], [], []),
    "overlays/dev": ([], [], []),
    "overlays/aws": ([], [], []),
    "overlays/gke": ([None], [180], []),
    "overlays/incremental-upgrade": ([], [], ["180s"]),
}
"""Timeouts of routes, of Google's and of Envoy's policies, where they are not the route's alone."""


def all_containers(folder: str) -> list[Manifest]:
    return [each for _, pod in pod_specs(folder) for each in containers(pod)]


def drain_s(folder: str, group: Manifest) -> float:
    (container,) = group["template"]["spec"]["containers"]
    own = [each["value"] for each in container["env"] if each["name"] == DRAIN]
    (name,) = [
        each["configMapRef"]["name"] for each in container["envFrom"] if "configMapRef" in each
    ]
    (shared,) = [
        each["data"] for each in find_all(folder, "ConfigMap") if each["metadata"]["name"] == name
    ]
    return float([shared[DRAIN], *own][-1])


@pytest.mark.parametrize("folder", RENDERED)
def test_every_container_is_locked_down(folder: str) -> None:
    wanted = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    autoscaler = rayservice(folder)["spec"]["rayClusterConfig"]["autoscalerOptions"]

    contexts = [each["securityContext"] for each in [*all_containers(folder), autoscaler]]

    assert [each for each in contexts if each != wanted] == []


@pytest.mark.parametrize("folder", RENDERED)
def test_every_pod_runs_as_a_user_with_seccomp(folder: str) -> None:
    contexts = [pod["securityContext"] for _, pod in pod_specs(folder)]

    assert {each["runAsNonRoot"] for each in contexts} == {True}
    assert all(each["runAsUser"] > 0 for each in contexts)
    assert {each["seccompProfile"]["type"] for each in contexts} == {"RuntimeDefault"}


@pytest.mark.parametrize("folder", RENDERED)
def test_what_a_container_writes_to_is_mounted(folder: str) -> None:
    missing = [
        each["name"]
        for each in all_containers(folder)
        if "/tmp" not in {mount["mountPath"] for mount in each["volumeMounts"]}
    ]

    assert missing == []


@pytest.mark.parametrize("folder", RENDERED)
def test_every_mount_has_its_volume(folder: str) -> None:
    claims = {
        claim["metadata"]["name"]
        for each in find_all(folder, "StatefulSet")
        for claim in each["spec"]["volumeClaimTemplates"]
    }

    missing = [
        (name, mount["name"])
        for name, pod in pod_specs(folder)
        for container in containers(pod)
        for mount in container["volumeMounts"]
        if mount["name"] not in {each["name"] for each in pod["volumes"]} | claims
    ]

    assert missing == []


@pytest.mark.parametrize("folder", RENDERED)
def test_every_claim_that_a_pod_names_exists(folder: str) -> None:
    named = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, pod in pod_specs(folder)
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }

    assert named == {each["metadata"]["name"] for each in find_all(folder, "PersistentVolumeClaim")}


@pytest.mark.parametrize("folder", RENDERED)
def test_requests_equal_limits(folder: str) -> None:
    autoscaler = rayservice(folder)["spec"]["rayClusterConfig"]["autoscalerOptions"]

    resources = [each["resources"] for each in [*all_containers(folder), autoscaler]]

    assert [each for each in resources if each["requests"] != each["limits"]] == []


@pytest.mark.parametrize("folder", RENDERED)
def test_secrets_are_only_referred_to(folder: str) -> None:
    secret = re.compile("PASSWORD|SECRET|TOKEN$|KEY", re.IGNORECASE)

    literal = [
        variable["name"]
        for each in all_containers(folder)
        for variable in each.get("env", [])
        if secret.search(variable["name"]) and "value" in variable
    ]

    assert literal == []
    assert find_all(folder, "Secret") == []


@pytest.mark.parametrize("folder", RENDERED)
def test_the_cluster_asks_for_a_token_and_keeps_replicas_off_its_head(folder: str) -> None:
    cluster = rayservice(folder)["spec"]["rayClusterConfig"]

    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"


@pytest.mark.parametrize("folder", RENDERED)
def test_kuberays_own_probes_are_kept(folder: str) -> None:
    own = [
        each["name"]
        for each in all_containers(folder)
        if each["name"].startswith("ray-") and {"livenessProbe", "readinessProbe"} & each.keys()
    ]

    assert own == []


@pytest.mark.parametrize("folder", RENDERED)
def test_a_stopping_pod_outlives_its_drain(folder: str) -> None:
    times = [
        (drain_s(folder, group), group["template"]["spec"]["terminationGracePeriodSeconds"])
        for group in worker_groups(folder).values()
    ]

    assert [each for each in times if not each[0] < each[1] <= each[0] + 15] == []


@pytest.mark.parametrize("folder", [each for each in RENDERED if each != "overlays/spot"])
def test_a_drain_outlives_the_longest_request(folder: str) -> None:
    config = AppConfig.model_validate(application_args(folder))
    stages = [config.text_encoder, *config.pools, config.vae_decoder]

    longest = max(
        config.router.graceful_shutdown_timeout_s,
        *(each.graceful_shutdown_timeout_s for each in stages),
    )

    assert longest <= min(drain_s(folder, each) for each in worker_groups(folder).values())


@pytest.mark.parametrize("folder", RENDERED)
def test_a_replaced_cluster_outlives_its_pods_drain(folder: str) -> None:
    spec = rayservice(folder)["spec"]

    longest = max(drain_s(folder, group) for group in worker_groups(folder).values())

    assert spec["rayClusterDeletionDelaySeconds"] > longest


def test_a_spot_node_drains_within_the_notice() -> None:
    group = worker_groups("overlays/spot")["consumer-16gb"]

    assert group["template"]["spec"]["terminationGracePeriodSeconds"] < SPOT_NOTICE_S


def test_a_spot_node_drains_within_a_short_notice(tmp_path: Path) -> None:
    rendered = component_overlay(tmp_path, "spot", "spot-short-notice")

    (service,) = [each for each in rendered if each["kind"] == "RayService"]
    (group,) = [
        each
        for each in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        if each["groupName"] == "consumer-16gb"
    ]
    (container,) = group["template"]["spec"]["containers"]
    (own,) = [float(each["value"]) for each in container["env"] if each["name"] == DRAIN]

    assert own < group["template"]["spec"]["terminationGracePeriodSeconds"] <= SHORT_NOTICE_S


@pytest.mark.parametrize("folder", [each for each in RENDERED if each != "overlays/dev"])
def test_big_gpus_idle_longer_than_small_ones(folder: str) -> None:
    idle_s = {name: group["idleTimeoutSeconds"] for name, group in worker_groups(folder).items()}

    assert idle_s["consumer-16gb"] < idle_s["cpu"] < idle_s["h800"]


@pytest.mark.parametrize("folder", RENDERED)
def test_a_disruption_budget_leaves_a_pod_to_evict(folder: str) -> None:
    fewest = {name: group["minReplicas"] for name, group in worker_groups(folder).items()}

    budgets = {
        each["spec"]["selector"]["matchLabels"]["ray.io/group"]: each["spec"]["minAvailable"]
        for each in find_all(folder, "PodDisruptionBudget")
    }

    assert [name for name, least in budgets.items() if not 0 < least < fewest[name]] == []


@pytest.mark.parametrize("folder", RENDERED)
def test_batch_pods_displace_nobody(folder: str) -> None:
    classes = {each["metadata"]["name"]: each for each in find_all(folder, "PriorityClass")}
    used = {pod["priorityClassName"] for _, pod in pod_specs(folder)}

    assert classes["zimage-batch"]["value"] < classes["zimage-interactive"]["value"]
    assert classes["zimage-batch"]["preemptionPolicy"] == "Never"
    assert used <= classes.keys()


@pytest.mark.parametrize("folder", RENDERED)
def test_ingress_is_refused_unless_allowed(folder: str) -> None:
    policies = [each["spec"] for each in find_all(folder, "NetworkPolicy")]

    assert {"podSelector": {}, "policyTypes": ["Ingress"]} in policies


@pytest.mark.parametrize("folder", RENDERED)
def test_gcs_and_replicas_ports_are_for_the_cluster_alone(folder: str) -> None:
    opened = {
        port["port"]
        for each in find_all(folder, "NetworkPolicy")
        for rule in each["spec"].get("ingress", [])
        for port in rule.get("ports", [])
        if each["metadata"]["name"] != "redis-from-the-cluster"
    }

    assert opened == {8000, 8265, 8080, 44217, 44227}


def test_dev_fits_four_cpus() -> None:
    folder = "overlays/dev"
    autoscaler = rayservice(folder)["spec"]["rayClusterConfig"]["autoscalerOptions"]
    requests = [each["resources"]["requests"] for each in [*all_containers(folder), autoscaler]]

    assert sum(cpus(each["cpu"]) for each in requests) <= DEV_CPUS - SYSTEM_CPUS


def test_dev_starts_no_second_cluster() -> None:
    assert rayservice("overlays/dev")["spec"]["upgradeStrategy"] == {"type": "None"}


@pytest.mark.parametrize("folder", [each for each in RENDERED if each != "overlays/dev"])
def test_pods_go_to_nodes_that_can_run_their_image(folder: str) -> None:
    groups = ["head", *worker_groups(folder)]
    selectors = {
        name: pod.get("nodeSelector", {}) for name, pod in pod_specs(folder) if name in groups
    }

    assert {
        name: each.get("kubernetes.io/arch") for name, each in selectors.items()
    } == dict.fromkeys(groups, "amd64")


@pytest.mark.parametrize("folder", RENDERED)
def test_kuberays_services_find_their_pods(folder: str) -> None:
    """The service of a RayService's head selects by KubeRay's own value of this label."""
    cluster = rayservice(folder)["spec"]["rayClusterConfig"]
    templates = [
        each["template"] for each in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ]

    assert [
        each
        for each in templates
        if "app.kubernetes.io/name" in each.get("metadata", {}).get("labels", {})
    ] == []


@pytest.mark.parametrize("folder", RENDERED)
def test_redis_is_full_before_its_container_is(folder: str) -> None:
    limits = {
        name: memory(containers(pod)[0]["resources"]["limits"]["memory"])
        for name, pod in pod_specs(folder)
        if name.startswith("redis-")
    }

    assert {
        name: limit
        for name, limit in limits.items()
        if not 0 < most_memory(folder, name) <= HOUSEKEEPING * limit
    } == {}


def most_memory(folder: str, server: str) -> int:
    (settings,) = [
        each["data"]["redis.conf"]
        for each in find_all(folder, "ConfigMap")
        if each["metadata"]["name"].startswith(server)
    ]
    (value,) = re.findall(r"^maxmemory (\S+)$", settings, flags=re.MULTILINE)
    return memory(value)


def memory(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


@pytest.mark.parametrize("folder", ["overlays/aws", "overlays/on-prem"])
def test_the_durable_redis_has_a_disk_of_its_own(folder: str) -> None:
    (redis,) = find_all(folder, "StatefulSet")
    (claim,) = redis["spec"]["volumeClaimTemplates"]
    shared = {
        each["spec"]["storageClassName"] for each in find_all(folder, "PersistentVolumeClaim")
    }

    assert claim["spec"]["storageClassName"] not in shared


@pytest.mark.parametrize("folder", RENDERED)
def test_a_gateway_waits_for_the_longest_call(folder: str) -> None:
    """Google's controller refuses a route with timeouts; its backend policy has the limit."""
    routes = [
        rule.get("timeouts", {}).get("request")
        for each in find_all(folder, "HTTPRoute")
        for rule in each["spec"]["rules"]
    ]
    backends = [
        each["spec"]["default"]["timeoutSec"] for each in find_all(folder, "GCPBackendPolicy")
    ]
    policies = [
        each["spec"]["timeout"]["http"]["requestTimeout"]
        for each in find_all(folder, "BackendTrafficPolicy")
        if "timeout" in each["spec"]
    ]

    assert (routes, backends, policies) == GATEWAYS.get(folder, (["180s"], [], []))


@pytest.mark.parametrize("folder", RENDERED)
def test_every_image_has_a_version(folder: str) -> None:
    tags = {each["image"].rpartition(":")[2] for each in all_containers(folder)}

    assert [tag for tag in tags if not re.match(r"\d+\.\d+\.\d+", tag)] == []


@pytest.mark.parametrize("folder", ["overlays/aws", "overlays/gke", "overlays/on-prem"])
def test_a_backend_gets_requests_once_it_has_drawn_a_picture(folder: str) -> None:
    checks = [
        each
        for each in render(folder)
        if each["kind"] in {"Ingress", "HealthCheckPolicy", "BackendTrafficPolicy"}
    ]

    assert ["/readyz" in _words(each) for each in checks] == [True]


def _words(value: Any) -> set[Any]:
    if isinstance(value, dict):
        return {word for each in value.values() for word in _words(each)}
    if isinstance(value, list):
        return {word for each in value for word in _words(each)}
    return {value}
