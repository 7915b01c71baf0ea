"""The dashboard: what it shows, and that the metrics of its queries and of the rules exist."""

from itertools import chain

from dashboards import dashboard, metrics_in, panel_queries, rule_queries

from cluster.telemetry import METRICS
from deployments.ray_metrics import to_prometheus_name


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
