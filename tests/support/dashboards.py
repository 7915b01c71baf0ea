"""The queries of the dashboard and of the rules over the same metrics."""

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

MANIFESTS: Final = Path(__file__).parents[2] / "k8s"
METRIC: Final = re.compile(r"\bray_zimage_\w+")


def dashboard() -> dict[str, Any]:
    """Read the dashboard."""
    file = MANIFESTS / "dashboards" / "zimage-serve.json"
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def panel_queries() -> dict[str, list[str]]:
    """Return the queries by the panel's title, with a window that short runs fill."""
    return {
        panel["title"]: [
            target["expr"].replace("$__rate_interval", "5m") for target in panel["targets"]
        ]
        for panel in dashboard()["panels"]
        if "targets" in panel
    }


def rule_queries() -> list[str]:
    """Return the expressions of the rules over the service's own metrics."""
    file = MANIFESTS / "components" / "monitoring" / "rules.yaml"
    groups = yaml.safe_load(file.read_text("utf-8"))["spec"]["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    return [expression for expression in expressions if METRIC.search(expression)]


def metrics_in(expression: str) -> set[str]:
    """Return the names of the service's metrics in a query, without a histogram's suffixes."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in METRIC.findall(expression)}
