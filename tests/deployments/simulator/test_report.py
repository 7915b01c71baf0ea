from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.routing.decisions import RequestFacts
from deployments.simulator.outcome import Outcome, PartBill
from deployments.simulator.report import format_report, percentile, summarise
from deployments.simulator.traces import Trace

PATIENT = RequestFacts(512, 512, 8)
HURRIED = RequestFacts(512, 1024, 8, timeout_s=2.0)
OUTCOME = Outcome(
    trace=Trace(np.arange(4.0), np.array([0, 0, 1, 1], dtype=np.int32), (PATIENT, HURRIED)),
    latency_s=np.array([10.0, np.nan, 1.0, 3.0]),
    estimate_s=np.array([9.0, np.nan, 1.1, np.nan]),
    pool_of=np.array([0, -1, 1, 1], dtype=np.int16),
    pool_names=("big", "small"),
    refusals=Counter(busy=1),
    bills=[
        PartBill("big", 3600.0, 1800.0, 2.0, 40.0),
        PartBill("small", 7200.0, 7200.0, 0.5, 10.0),
    ],
    ticks_s=[],
    series=[],
    end_s=3600.0,
)

_NOTHING_KNOWN: dict[str, Any] = {
    "estimate_s": np.full(180, np.nan),
    "pool_of": np.zeros(180, dtype=np.int16),
}


def test_what_was_refused_or_late_is_not_within_its_deadline() -> None:
    report = summarise(OUTCOME)
    assert (report.num_requests, report.num_refused, report.attainment) == (4, 1, 0.5)


def test_percentiles_are_of_what_was_answered() -> None:
    report = summarise(OUTCOME)
    assert report.p50_s == 3.0
    assert report.p95_by_size == {"1024x512": pytest.approx(2.9), "512x512": 10.0}


def test_the_worst_minute_is_that_of_a_burst() -> None:
    times = np.arange(0.0, 180.0, 1.0)
    latency = np.where((times >= 60) & (times < 120), 9.0, 1.0)
    trace = Trace(times, np.zeros(180, dtype=np.int32), (PATIENT,))
    report = summarise(replace(OUTCOME, trace=trace, latency_s=latency, **_NOTHING_KNOWN))
    assert (report.worst_p95_s, report.p50_s) == (9.0, 1.0)


def test_predictions_are_compared_where_there_are_any() -> None:
    assert summarise(OUTCOME).estimate_error == pytest.approx(0.1)


def test_the_bill_is_hours_times_price() -> None:
    report = summarise(OUTCOME)
    assert (report.gpu_hours, report.cost, report.cost_per_hour) == (3.0, 3.0, 3.0)
    assert report.cost_per_thousand == 1000.0
    assert report.utilization == pytest.approx((1800 * 40 + 7200 * 10) / (3600 * 40 + 7200 * 10))


def test_nothing_answered_is_infinitely_late() -> None:
    assert percentile(np.array([np.nan]), 95) == float("inf")


def test_a_report_says_each_part_in_a_line() -> None:
    lines = list(format_report(summarise(OUTCOME)))
    assert lines[0].startswith("4 requests in 60.0 min, 1 refused; p50 3.00 s")
    assert [line.split()[0] for line in lines[3:5]] == ["big", "small"]
    assert lines[-1] == "cost 3.00 an hour, 1000.000 a thousand pictures, 3.0 GPU hours"
