"""Prometheus rules: Prometheus takes them, they fire, and their metrics exist."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.prom_metrics import AutoscalerPrometheusMetrics
from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels

from cluster.telemetry import METRICS
from deployments.ray_metrics import known_counts, to_prometheus_name
from tests.k8s.manifests import MANIFESTS, find_all

PRODUCTION = "overlays/production"
METRIC = re.compile(r"\b(?:ray|autoscaler|kube|kuberay)_[a-z0-9_]+")
INCREASE = re.compile(r"increase\((ray_zimage_\w+)")
ALERT = re.compile(r"- alert: (\w+)")
LABELS = {"ray_io_group", "ray_io_cluster"}
KUBE_STATE_METRICS = {
    "kube_pod_container_status_waiting_reason",
    "kube_pod_init_container_status_waiting_reason",
    "kube_statefulset_status_replicas_ready",
}
OF_OPERATOR = {"kuberay_service_condition_upgrade_in_progress"}
OF_SERVICE = {to_prometheus_name(metric) for metric in METRICS}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, of the package prometheus, is missing"
)


def rules() -> dict[str, Any]:
    (manifest,) = find_all(PRODUCTION, "PrometheusRule")
    spec: dict[str, Any] = manifest["spec"]
    return spec


def all_rules() -> list[dict[str, Any]]:
    return [each for group in rules()["groups"] for each in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [each for each in all_rules() if "alert" in each]


def run_promtool(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules()))
    shutil.copy(Path(__file__).parent / "rules_test.yaml", folder)
    command = ["promtool", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@needs_promtool
def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    result = run_promtool(tmp_path, "check", "rules", "rules.yaml")

    assert (result.returncode, result.stderr) == (0, "")


@needs_promtool
def test_alerts_fire_on_what_they_are_about(tmp_path: Path) -> None:
    result = run_promtool(tmp_path, "test", "rules", "rules_test.yaml")

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tested() -> None:
    tested = (Path(__file__).parent / "rules_test.yaml").read_text()

    assert [each["alert"] for each in alerts() if f"alertname: {each['alert']}" not in tested] == []


def test_a_prometheus_without_its_operator_can_have_the_same_rules() -> None:
    file = MANIFESTS / "dashboards" / "rules.yaml"

    assert yaml.safe_load(file.read_text("utf-8")) == rules()


def test_every_alert_that_is_written_down_is_deployed() -> None:
    texts = [each.read_text("utf-8") for each in MANIFESTS.rglob("*.yaml")]
    written = {name for text in texts for name in ALERT.findall(text)}

    assert written == {each["alert"] for each in alerts()}


def test_every_metric_of_the_rules_and_the_guide_exists() -> None:
    texts = [*(each["expr"] for each in all_rules()), (MANIFESTS / "README.md").read_text()]
    used = {name for text in texts for name in METRIC.findall(text)} - LABELS
    source = "".join(path.read_text() for path in Path(ray.__file__).parent.glob("serve/**/*.py"))
    autoscaler = AutoscalerPrometheusMetrics(session_name="x", registry=None)
    of_autoscaler = {metric.name for metric in autoscaler.registry.collect()}
    panels = Path(default_dashboard_panels.__file__).read_text()

    unknown = {
        name
        for name in used - KUBE_STATE_METRICS - OF_OPERATOR - OF_SERVICE - of_autoscaler
        if name.removesuffix("_bucket") not in OF_SERVICE
        and f'"{name.removeprefix("ray_")}"' not in source
        and name not in panels
    }

    assert unknown == set()


def test_counters_whose_increase_an_alert_asks_for_are_shown_before_their_first_event() -> None:
    shown = {to_prometheus_name(metric) for metric, _ in known_counts()}
    asked = {name for each in alerts() for name in INCREASE.findall(each["expr"])}

    assert asked
    assert asked <= shown


def test_every_runbook_is_a_section_of_the_guide() -> None:
    guide = (MANIFESTS / "README.md").read_text()
    headings = re.findall(r"^#+ (.+)$", guide, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}

    assert {each["annotations"]["runbook"] for each in alerts()} <= {
        f"k8s/README.md#{anchor}" for anchor in anchors
    }
