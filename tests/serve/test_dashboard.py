"""Every query of the dashboard against a real Prometheus that scrapes a real run."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from dashboards import panel_queries, rule_queries
from prometheus_server import PrometheusServer, run_prometheus
from service import free_port, run_service

pytestmark = [pytest.mark.serve, pytest.mark.slow]

NEEDS_GPU = {"GPU memory, peak"}
NEVER_HAPPENED = ('outcome="failed"', "overloaded")
"""Rules over what this run has none of: failures other than late calls, and a full pool."""
CALLS = (
    ({"size": "64x64"}, 200),
    ({"size": "64x64", "n": 2, "response_format": "b64_json"}, 200),
    ({"size": "64x64", "stream": True, "partial_images": 1}, 200),
    ({"size": "512x512", "num_inference_steps": 50, "timeout_s": 0.05}, 504),
)


@pytest.fixture(scope="module")
def prometheus(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusServer]:
    command = shutil.which("prometheus")
    if command is None:
        pytest.skip("no `prometheus` command: apt-get install prometheus")
    folder, port = tmp_path_factory.mktemp("dashboard"), free_port()
    store = ("--store", str(folder / "images"))
    options = ("--model", str(tiny_model), *store, "--metrics-port", str(port))
    with (
        run_service(folder, *options) as service,
        run_prometheus(command, folder / "prometheus", port) as prometheus,
    ):
        make_calls(service.url)
        # A rate needs a counter to be seen before and after it grows.
        prometheus.await_result('ray_zimage_requests_total{outcome="failed"}')
        make_calls(service.url)
        prometheus.await_result('rate(ray_zimage_requests_total{outcome="failed"}[5m]) > 0')
        yield prometheus


def make_calls(url: str) -> None:
    for body, status in CALLS:
        answer = httpx.post(
            f"{url}/v1/images/generations", json={"prompt": "x", **body}, timeout=60
        )
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize("title", sorted(set(panel_queries()) - NEEDS_GPU))
def test_a_panel_shows_something(prometheus: PrometheusServer, title: str) -> None:
    results = [prometheus.query(expression) for expression in panel_queries()[title]]

    assert all(results)


def test_a_forward_has_at_least_one_request(prometheus: PrometheusServer) -> None:
    [expression] = panel_queries()["Requests in a forward, mean"]

    [batch] = prometheus.query(expression)

    assert float(batch["value"][1]) >= 0.999


@pytest.mark.parametrize(
    "expression",
    [
        expression.partition(" > ")[0]
        for expression in rule_queries()
        if not any(name in expression for name in NEVER_HAPPENED)
    ],
)
def test_a_rule_has_something_to_compare(prometheus: PrometheusServer, expression: str) -> None:
    assert prometheus.query(expression)
