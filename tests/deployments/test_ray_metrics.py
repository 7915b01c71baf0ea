"""Ray is told of counts once a second, of everything else at once."""

from collections import Counter
from collections.abc import Mapping

import pytest
from ray.serve import metrics

from cluster.telemetry import COST_UNITS, DEADLINES, REQUEST_DURATION
from deployments.ray_metrics import RayMeter, known_counts, to_ray_name
from pipeline.request import Priority


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Sums by instrument and pool."""
    sums: Counter[tuple[str, str]] = Counter()

    def inc(self: metrics.Counter, value: float, tags: Mapping[str, str]) -> None:
        sums[self.info["name"], tags["pool"]] += value  # type: ignore[assignment]  # of floats too

    monkeypatch.setattr(metrics.Counter, "inc", inc)
    return sums


def test_counts_are_added_up_by_their_labels(told: Counter[tuple[str, str]]) -> None:
    meter = RayMeter()
    for units, pool in ((1.5, "h800"), (2.5, "h800"), (4.0, "cpu")):
        meter.record(COST_UNITS, units, {"pool": pool, "path": "full_image"})

    meter.flush()
    meter.flush()

    assert told == {("zimage_cost_units", "h800"): 4.0, ("zimage_cost_units", "cpu"): 4.0}


def test_counters_that_alerts_look_at_are_shown_at_zero_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: dict[tuple[str, tuple[str, ...]], float] = {}

    def record(self: metrics.Counter, value: float, tags: Mapping[str, str]) -> None:
        shown[self.info["name"], tuple(tags.values())] = value

    monkeypatch.setattr(metrics.Counter, "_record", record)

    RayMeter().flush()

    assert shown == {
        (to_ray_name(metric), tuple(value for _, value in labels)): 0.0
        for metric, labels in known_counts()
    }
    assert shown["zimage_retries", ("lost",)] == 0.0


def test_deadlines_are_shown_for_every_priority() -> None:
    assert set(DEADLINES.known[1]) == set(Priority)


def test_a_duration_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: list[float] = []
    monkeypatch.setattr(
        metrics.Histogram, "observe", lambda _self, value, _tags: seconds.append(value)
    )

    RayMeter().record(REQUEST_DURATION, 0.5, {"path": "full_image", "priority": "batch"})

    assert seconds == [0.5]
