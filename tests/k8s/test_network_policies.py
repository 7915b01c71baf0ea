"""Who reaches what, by the rendered policies."""

from typing import Final

import pytest

from tests.k8s.manifests import RENDERED, Manifest, find_all
from tests.k8s.network import Outside, Pod, may_reach

CLUSTER: Final = {"ray.io/is-ray-node": "yes"}
HEAD: Final = Pod({**CLUSTER, "ray.io/node-type": "head"})
WORKER: Final = Pod({**CLUSTER, "ray.io/node-type": "worker", "ray.io/group": "h800"})
"""KubeRay adds these labels to those of a group's template."""
DURABLE: Final = Pod({"app.kubernetes.io/name": "redis-durable"})
CACHE: Final = Pod({"app.kubernetes.io/name": "redis-cache"})
STRANGER: Final = Pod({"app": "debug"})
OPERATOR: Final = Pod(
    {"app.kubernetes.io/name": "kuberay-operator"}, {"zimage-serve/operator": "true"}
)
BESIDE_OPERATOR: Final = Pod({"app": "other"}, {"zimage-serve/operator": "true"})
GATEWAY: Final = Pod({"app": "envoy"}, {"zimage-serve/gateway": "true"})
PROMETHEUS: Final = Pod({"app": "prometheus"}, {"zimage-serve/monitoring": "true"})
ELSEWHERE: Final = Pod({**CLUSTER, "ray.io/node-type": "worker"}, {"name": "elsewhere"})
"""A pod of another namespace that bears the cluster's labels."""

BALANCERS: Final[dict[str, list[Pod | Outside]]] = {
    "overlays/aws": [Outside("10.0.3.4")],
    "overlays/gke": [Outside("10.129.1.7"), Outside("35.191.0.9"), Outside("130.211.1.1")],
}
INTERNET: Final = Outside("203.0.113.5")

Peers = list[Pod | Outside]

HTTP, DASHBOARD, GCS, REDIS = 8000, 8265, 6379, 6379
REPLICA: Final = 10_002
"""One of those that Ray draws for workers."""
METRICS: Final = (8080, 44217, 44227)
PORTS: Final = (HTTP, DASHBOARD, GCS, REPLICA, 10_001, *METRICS)


def policies(folder: str) -> list[Manifest]:
    return find_all(folder, "NetworkPolicy")


def reached(folder: str, source: Pod | Outside, target: Pod) -> set[int]:
    return {port for port in PORTS if may_reach(policies(folder), source, target, port)}


@pytest.mark.parametrize("folder", RENDERED)
def test_only_the_gateway_reaches_http(folder: str) -> None:
    gateways: Peers = BALANCERS.get(folder, [GATEWAY])
    others: Peers = [STRANGER, BESIDE_OPERATOR, PROMETHEUS, ELSEWHERE, INTERNET, DURABLE]

    assert [reached(folder, each, WORKER) for each in gateways] == [{HTTP}] * len(gateways)
    assert [reached(folder, each, HEAD) for each in gateways] == [set()] * len(gateways)
    assert [each for each in others if HTTP in reached(folder, each, WORKER)] == []


@pytest.mark.parametrize("folder", RENDERED)
def test_only_the_cluster_reaches_gcs_and_the_replicas(folder: str) -> None:
    nodes = [(HEAD, WORKER), (WORKER, HEAD), (WORKER, WORKER)]
    others: Peers = [STRANGER, OPERATOR, GATEWAY, PROMETHEUS, ELSEWHERE, INTERNET, DURABLE]

    assert [reached(folder, *each) for each in nodes] == [set(PORTS)] * len(nodes)
    assert [
        each
        for each in others
        for target in (HEAD, WORKER)
        if reached(folder, each, target) & {GCS, REPLICA, 10_001}
    ] == []


@pytest.mark.parametrize("folder", RENDERED)
def test_only_the_operator_deploys_from_outside(folder: str) -> None:
    others: Peers = [STRANGER, BESIDE_OPERATOR, GATEWAY, PROMETHEUS, ELSEWHERE, INTERNET]

    assert reached(folder, OPERATOR, HEAD) == {DASHBOARD, HTTP}
    assert reached(folder, OPERATOR, WORKER) == set()
    assert [each for each in others if DASHBOARD in reached(folder, each, HEAD)] == []


@pytest.mark.parametrize("folder", RENDERED)
def test_only_prometheus_reads_metrics_from_outside(folder: str) -> None:
    others: Peers = [STRANGER, OPERATOR, GATEWAY, ELSEWHERE, INTERNET]

    assert reached(folder, PROMETHEUS, HEAD) == set(METRICS)
    assert reached(folder, PROMETHEUS, WORKER) == set(METRICS)
    assert [each for each in others if reached(folder, each, WORKER) & set(METRICS)] == []


@pytest.mark.parametrize("folder", RENDERED)
@pytest.mark.parametrize("redis", [DURABLE, CACHE])
def test_only_the_cluster_reaches_redis(folder: str, redis: Pod) -> None:
    others: Peers = [STRANGER, OPERATOR, GATEWAY, PROMETHEUS, ELSEWHERE, INTERNET]

    assert [may_reach(policies(folder), each, redis, REDIS) for each in (HEAD, WORKER)] == [
        True
    ] * 2
    assert [each for each in others if reached(folder, each, redis)] == []


@pytest.mark.parametrize("folder", RENDERED)
def test_both_redis_servers_have_the_labels_that_the_policies_name(folder: str) -> None:
    servers = [
        each["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        for kind in ("StatefulSet", "Deployment")
        for each in find_all(folder, kind)
    ]

    assert sorted(servers) == ["redis-cache", "redis-durable"]
