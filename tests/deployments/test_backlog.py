import math
from collections.abc import Sequence
from dataclasses import astuple, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.rates import guess_rate
from deployments.backlog import (
    GONE_AFTER_S,
    SILENT_AFTER_S,
    STALE_AFTER_S,
    TRANSIT_S,
    AgedReport,
    PoolBacklog,
    PoolReports,
    ReplicaReport,
    SentWork,
    find_takers,
    is_newer,
    left_s,
    read_pools,
    valid_for_s,
)

REPORT = ReplicaReport(
    pool="h800",
    replica_id="a",
    sequence=5,
    backlog_units=40.0,
    interactive_backlog_units=10.0,
    max_backlog_units=400.0,
    rate=guess_rate(43.7),
)
OTHER = replace(REPORT, replica_id="b", backlog_units=0.0, interactive_backlog_units=0.0)
SENT = SentWork(8.0, is_interactive=True, age_s=0.0)


def aged(report: ReplicaReport, age_s: float = 0.1) -> AgedReport:
    return AgedReport(report, age_s)


def summarise(reports: Sequence[AgedReport], sent: Sequence[SentWork] = ()) -> PoolBacklog:
    return read_pools(reports).get("h800", PoolReports()).to_backlog(sent)


def test_a_report_that_was_overtaken_replaces_nothing() -> None:
    assert is_newer(replace(REPORT, sequence=6), REPORT)
    assert not is_newer(replace(REPORT, sequence=4), REPORT)
    assert is_newer(REPORT, None)


def test_a_pool_is_the_sum_of_its_replicas() -> None:
    pool = summarise([aged(REPORT), aged(OTHER), aged(replace(OTHER, pool="cpu"))])
    assert (pool.num_replicas, pool.num_idle_replicas) == (2, 1)
    assert (pool.backlog_units, pool.interactive_backlog_units) == (40.0, 10.0)
    assert pool.max_backlog_units == 800.0
    assert pool.wait_s == pytest.approx(40.0 / 87.4 - 0.1)


def test_a_stale_replica_is_counted_but_not_relied_on() -> None:
    pool = summarise([aged(REPORT, STALE_AFTER_S + 0.1), aged(OTHER)])
    assert (pool.num_replicas, pool.num_stale, pool.backlog_units) == (1, 1, 0.0)


def test_where_all_are_stale_the_last_known_is_used() -> None:
    late = STALE_AFTER_S + 5
    pool = summarise([aged(REPORT, late), aged(OTHER, late)])
    assert (pool.num_replicas, pool.num_stale) == (2, 2)


def test_a_pool_that_is_silent_while_others_are_heard_has_no_replica() -> None:
    other = aged(replace(OTHER, pool="consumer-16gb"))

    for_a_moment = summarise([aged(REPORT, SILENT_AFTER_S - 0.1), other])
    for_long = summarise([aged(REPORT, SILENT_AFTER_S + 0.1), other])

    assert (for_a_moment.num_replicas, for_long.num_replicas) == (1, 0)
    assert read_pools([aged(REPORT, 10.0), other])["h800"].unreported_for_s > GONE_AFTER_S


def test_a_silent_replica_is_dropped_in_the_end() -> None:
    assert read_pools([aged(REPORT, GONE_AFTER_S + 1)]) == {}


def test_reports_hold_until_somebody_has_been_silent_for_too_long() -> None:
    reports = [aged(REPORT, 0.25), aged(OTHER, STALE_AFTER_S + 0.5)]

    assert valid_for_s(reports) == pytest.approx(STALE_AFTER_S - 0.25)
    assert valid_for_s(reports[1:]) == pytest.approx(SILENT_AFTER_S - STALE_AFTER_S - 0.5)
    assert valid_for_s([aged(REPORT, GONE_AFTER_S + 1)]) == math.inf


@pytest.mark.parametrize("change", [{"is_healthy": False}, {"is_draining": True}])
def test_a_replica_that_takes_no_work_is_no_taker(change: dict[str, bool]) -> None:
    assert find_takers([aged(replace(REPORT, **change))]) == []  # type: ignore[arg-type]


def test_a_pool_whose_replicas_are_all_unhealthy_is_unhealthy_and_an_empty_one_is_cold() -> None:
    sick = summarise([aged(replace(REPORT, is_healthy=False))])
    half = summarise([aged(replace(REPORT, is_healthy=False)), aged(OTHER)])
    assert [pool.is_healthy for pool in (sick, half, summarise([]))] == [False, True, True]


def test_an_empty_pool_has_no_wait() -> None:
    assert summarise([]).wait_s == 0.0


def test_work_for_a_pool_without_replicas_never_ends() -> None:
    assert summarise([], [SENT]).wait_s == float("inf")


def test_what_was_sent_since_the_report_is_added() -> None:
    sent = [
        replace(SENT, age_s=0.05),
        SentWork(5.0, is_interactive=False, age_s=0.05),
        SentWork(100.0, is_interactive=False, age_s=3.0),
    ]
    pool = summarise([aged(REPORT), aged(OTHER)], sent)
    assert (pool.backlog_units, pool.interactive_backlog_units) == (53.0, 18.0)
    assert pool.num_idle_replicas == 0


def test_what_half_of_the_reports_may_tell_of_is_added_by_half() -> None:
    reports = [aged(OTHER, 0.05), aged(replace(OTHER, replica_id="c"), 0.2)]

    pool = summarise(reports, [replace(SENT, age_s=0.1)])

    assert pool.backlog_units == SENT.units / 2
    assert pool.num_idle_replicas == 1.5


def test_a_replica_that_has_had_the_time_for_what_it_told_of_is_idle() -> None:
    reports = read_pools([aged(replace(REPORT, backlog_units=43.7), 0.25)])["h800"]

    assert reports.to_backlog(after_s=0.5).num_idle_replicas == 0
    assert reports.to_backlog(after_s=0.8).num_idle_replicas == 1


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 2)), max_size=20), st.floats(0, 0.9))
def test_no_work_sent_since_the_report_is_forgotten(
    sends: list[tuple[float, float]], report_age_s: float
) -> None:
    sent = [SentWork(units, is_interactive=False, age_s=age) for units, age in sends]
    pool = summarise([aged(OTHER, report_age_s)], sent)
    assert pool.backlog_units >= sum(units for units, age in sends if age <= report_age_s)


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, GONE_AFTER_S)), max_size=20),
    st.lists(st.floats(0, 2 * GONE_AFTER_S), max_size=3),
)
def test_what_every_report_tells_of_need_not_be_known(
    sends: list[tuple[float, float]], report_ages_s: list[float]
) -> None:
    replicas = [replace(OTHER, replica_id=str(index)) for index in range(len(report_ages_s))]
    reports = list(map(aged, replicas, report_ages_s))
    sent = [SentWork(units, is_interactive=True, age_s=age) for units, age in sends]
    for_s = read_pools(reports).get("h800", PoolReports()).unreported_for_s
    recent = [work for work in sent if work.age_s < for_s]
    assert summarise(reports, recent) == summarise(reports, sent)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=5),
    st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 2)), max_size=10),
    st.floats(0, 1),
)
def test_sums_that_were_made_before_say_what_sums_of_now_would(
    held: list[tuple[float, float]], sends: list[tuple[float, float]], after_s: float
) -> None:
    before = [
        aged(replace(REPORT, replica_id=str(index), backlog_units=units), age_s)
        for index, (units, age_s) in enumerate(held)
    ]
    assume(after_s <= valid_for_s(before))
    sent = [SentWork(units, is_interactive=True, age_s=age) for units, age in sends]
    # Rounding decides on which side of a border somebody is.
    borders = [work.age_s - TRANSIT_S - one.age_s - after_s for work in sent for one in before]
    idle = [one.report.backlog_units / 43.7 - one.age_s - after_s for one in before]
    assume(all(abs(border) > 1e-6 for border in borders + idle))

    kept = read_pools(before)["h800"].to_backlog(sent, after_s=after_s)
    anew = summarise([aged(one.report, one.age_s + after_s) for one in before], sent)

    assert astuple(kept) == pytest.approx(astuple(anew))


def test_a_backlog_is_worked_off_while_nobody_tells() -> None:
    assert left_s(43.7, 0.25, [], 43.7) == pytest.approx(0.75)
    assert left_s(43.7, 2.0, [], 43.7) == 0.0


def test_what_came_on_top_is_worked_off_from_when_it_came() -> None:
    late = SentWork(43.7, is_interactive=True, age_s=0.5)
    # Idle from 1.0 s to 0.5 s ago.
    assert left_s(43.7, 2.0, [late], 43.7) == pytest.approx(0.5)
    # At work without a pause.
    assert left_s(4 * 43.7, 2.0, [late], 43.7) == pytest.approx(3.0)


def test_work_that_is_sent_while_its_report_is_on_the_way_counts_whole() -> None:
    sent = SentWork(43.7, is_interactive=True, age_s=0.11)
    assert left_s(0.0, 0.1, [sent], 43.7) == pytest.approx(0.9)


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 2)), max_size=20),
    st.floats(0, 100),
    st.floats(0, 2),
)
def test_a_wait_is_between_all_that_was_told_and_that_less_the_time_since(
    sends: list[tuple[float, float]], units: float, age_s: float
) -> None:
    sent = [SentWork(units, is_interactive=False, age_s=age) for units, age in sends]
    whole_s = (units + sum(work.units for work in sent)) / 43.7
    assert whole_s - age_s - 1e-9 <= left_s(units, age_s, sent, 43.7) <= whole_s + 1e-9
