"""The dashboard and its rules: Prometheus takes them, they fire, and their metrics exist."""

import shutil
import subprocess
from itertools import chain

import pytest
from dashboards import FOLDER, dashboard, metrics_in, panel_queries, rule_queries

from cluster.telemetry import METRICS
from deployments.ray_metrics import to_prometheus_name

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, of the package prometheus, is missing"
)


def run_promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["promtool", *arguments]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    result = run_promtool("check", "rules", "rules.yaml")

    assert result.returncode == 0, result.stderr


@needs_promtool
def test_alerts_fire_on_what_they_are_about_and_on_nothing_less() -> None:
    result = run_promtool("test", "rules", "rules_test.yaml")

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_metric_of_a_query_is_one_that_the_service_has() -> None:
    queries = [*chain.from_iterable(panel_queries().values()), *rule_queries()]
    used = set(chain.from_iterable(map(metrics_in, queries)))

    assert used <= {to_prometheus_name(metric) for metric in METRICS}


def test_the_dashboard_answers_the_operators_four_questions() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]

    assert rows == [
        "Are users served within their deadlines?",
        "What is slow?",
        "Which pool is short?",
        "What does it cost?",
    ]


def test_panels_have_different_ids_and_say_what_they_show() -> None:
    panels = dashboard()["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels if "targets" in panel)
