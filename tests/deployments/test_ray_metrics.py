"""Ray is told of counts once a second, of everything else at once."""

from collections import Counter
from collections.abc import Mapping

import pytest
from ray.serve import metrics

from cluster.telemetry import COST_UNITS, REQUEST_DURATION
from deployments.ray_metrics import RayMeter


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


def test_a_duration_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: list[float] = []
    monkeypatch.setattr(
        metrics.Histogram, "observe", lambda _self, value, _tags: seconds.append(value)
    )

    RayMeter().record(REQUEST_DURATION, 0.5, {"path": "full_image", "priority": "batch"})

    assert seconds == [0.5]
