"""The operator's own Redis, as an overlay of the operator's would bring it in."""

from collections.abc import Iterator

import pytest

from tests.k8s.manifests import Manifest, component_overlay

RAY = "rediss://jobs.example.internal:6379"
JOBS = "rediss://:$(REDIS_CLIENT_PASSWORD)@jobs.example.internal:6379/0"
CACHE = "rediss://:$(REDIS_CLIENT_PASSWORD)@cache.example.internal:6379/0"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ...]:
    return component_overlay(
        tmp_path_factory.mktemp("overlay"),
        "external-redis",
        configMapGenerator=[
            {"name": "external-redis", "literals": [f"ray={RAY}", f"jobs={JOBS}", f"cache={CACHE}"]}
        ],
    )


def ray_containers(rendered: tuple[Manifest, ...]) -> Iterator[Manifest]:
    (service,) = [each for each in rendered if each["kind"] == "RayService"]
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield from group["template"]["spec"]["containers"]


def test_no_redis_is_left(rendered: tuple[Manifest, ...]) -> None:
    kinds = {each["kind"] for each in rendered}

    assert kinds & {"StatefulSet", "Deployment", "Service"} == set()


def test_every_pod_reaches_the_operators_servers_over_tls(rendered: tuple[Manifest, ...]) -> None:
    variables = [
        {each["name"]: each.get("value") for each in container["env"]}
        for container in ray_containers(rendered)
    ]

    assert {(each["REDIS_JOBS_URL"], each["REDIS_CACHE_URL"]) for each in variables} == {
        (JOBS, CACHE)
    }
    assert len(variables) == 4


def test_ray_keeps_its_state_there(rendered: tuple[Manifest, ...]) -> None:
    (service,) = [each for each in rendered if each["kind"] == "RayService"]
    options = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]

    assert options["redisAddress"] == RAY
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["key"] == "password"


def test_urls_have_the_password_as_a_url_needs_it(rendered: tuple[Manifest, ...]) -> None:
    keys = {
        each["valueFrom"]["secretKeyRef"]["key"]
        for container in ray_containers(rendered)
        for each in container["env"]
        if each["name"] == "REDIS_CLIENT_PASSWORD"
    }

    assert keys == {"url-password"}


def test_no_alert_asks_after_the_server_that_is_gone(rendered: tuple[Manifest, ...]) -> None:
    (rules,) = [each for each in rendered if each["kind"] == "PrometheusRule"]
    names = [each.get("alert") for group in rules["spec"]["groups"] for each in group["rules"]]

    assert "ZimageRedisDown" not in names
    assert "ZimageGone" in names
