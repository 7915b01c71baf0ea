from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.rates import guess_rate
from deployments.backlog import (
    GONE_AFTER_S,
    SILENT_AFTER_S,
    STALE_AFTER_S,
    AgedReport,
    ReplicaReport,
    SentWork,
    add_sent,
    find_takers,
    is_newer,
    left_s,
    summarise_pool,
    unreported_for_s,
)

REPORT = ReplicaReport(
    pool="h800",
    replica_id="a",
    sequence=5,
    backlog_units=40.0,
    interactive_backlog_units=10.0,
    max_backlog_units=400.0,
    rate=guess_rate(43.7),
    warm_sizes=frozenset({(1024, 1024)}),
)
OTHER = replace(REPORT, replica_id="b", backlog_units=0.0, interactive_backlog_units=0.0)


def aged(report: ReplicaReport, age_s: float = 0.1) -> AgedReport:
    return AgedReport(report, age_s)


def test_a_report_that_was_overtaken_replaces_nothing() -> None:
    assert is_newer(replace(REPORT, sequence=6), REPORT)
    assert not is_newer(replace(REPORT, sequence=4), REPORT)
    assert is_newer(REPORT, None)


def test_a_pool_is_the_sum_of_its_replicas() -> None:
    pool = summarise_pool("h800", [aged(REPORT), aged(OTHER), aged(replace(OTHER, pool="cpu"))])
    assert (pool.num_replicas, pool.num_idle_replicas) == (2, 1)
    assert (pool.backlog_units, pool.interactive_backlog_units) == (40.0, 10.0)
    assert pool.max_backlog_units == 800.0
    assert pool.wait_s == pytest.approx(40.0 / 87.4 - 0.1)


def test_a_stale_replica_is_counted_but_not_relied_on() -> None:
    pool = summarise_pool("h800", [aged(REPORT, STALE_AFTER_S + 0.1), aged(OTHER)])
    assert (pool.num_replicas, pool.num_stale, pool.backlog_units) == (1, 1, 0.0)


def test_where_all_are_stale_the_last_known_is_used() -> None:
    late = STALE_AFTER_S + 5
    pool = summarise_pool("h800", [aged(REPORT, late), aged(OTHER, late)])
    assert (pool.num_replicas, pool.num_stale) == (2, 2)


def test_a_pool_that_is_silent_while_others_are_heard_has_no_replica() -> None:
    other = aged(replace(OTHER, pool="consumer-16gb"))

    for_a_moment = summarise_pool("h800", [aged(REPORT, SILENT_AFTER_S - 0.1), other])
    for_long = summarise_pool("h800", [aged(REPORT, SILENT_AFTER_S + 0.1), other])

    assert (for_a_moment.num_replicas, for_long.num_replicas) == (1, 0)
    assert unreported_for_s("h800", [aged(REPORT, 10.0), other]) > GONE_AFTER_S


def test_a_silent_replica_is_dropped_in_the_end() -> None:
    assert summarise_pool("h800", [aged(REPORT, GONE_AFTER_S + 1)]).num_replicas == 0


@pytest.mark.parametrize("change", [{"is_healthy": False}, {"is_draining": True}])
def test_a_replica_that_takes_no_work_is_no_taker(change: dict[str, bool]) -> None:
    assert find_takers([aged(replace(REPORT, **change))]) == []  # type: ignore[arg-type]


def test_a_pool_whose_replicas_are_all_unhealthy_is_unhealthy_and_an_empty_one_is_cold() -> None:
    sick = summarise_pool("h800", [aged(replace(REPORT, is_healthy=False))])
    half = summarise_pool("h800", [aged(replace(REPORT, is_healthy=False)), aged(OTHER)])
    assert [pool.is_healthy for pool in (sick, half, summarise_pool("h800", []))] == [
        False,
        True,
        True,
    ]


def test_an_empty_pool_has_no_wait() -> None:
    assert summarise_pool("h800", []).wait_s == 0.0


def test_work_for_a_pool_without_replicas_never_ends() -> None:
    sent = SentWork("h800", 8.0, is_interactive=True, age_s=0.0)
    assert summarise_pool("h800", [], [sent]).wait_s == float("inf")


def test_what_was_sent_since_the_report_is_added() -> None:
    sent = [
        SentWork("h800", 8.0, is_interactive=True, age_s=0.05, replica_id="a"),
        SentWork("h800", 5.0, is_interactive=False, age_s=0.05),
        SentWork("h800", 100.0, is_interactive=False, age_s=3.0),
        SentWork("cpu", 100.0, is_interactive=False, age_s=0.0),
    ]
    pool = summarise_pool("h800", [aged(REPORT), aged(OTHER)], sent)
    assert (pool.backlog_units, pool.interactive_backlog_units) == (53.0, 18.0)
    assert pool.num_idle_replicas == 0


def test_the_least_wait_counts_what_was_sent_to_that_replica() -> None:
    mine = SentWork("h800", 87.4, is_interactive=False, age_s=0.0, replica_id="b")
    reports = [aged(REPORT), aged(OTHER)]
    assert summarise_pool("h800", reports).least_wait_s == 0.0
    charged = summarise_pool("h800", reports, [mine])
    assert charged.least_wait_s == pytest.approx(40.0 / 43.7)
    assert charged.least_interactive_wait_s == 0.0
    assert charged.num_idle_replicas == 0


def test_a_replica_is_charged_for_what_this_router_sent_it() -> None:
    mine = SentWork("h800", 8.0, is_interactive=True, age_s=0.05, replica_id="a")
    charged = add_sent(aged(REPORT), [mine, replace(mine, replica_id="b")])
    assert charged == replace(REPORT, backlog_units=48.0, interactive_backlog_units=18.0)


def test_a_replica_that_was_sent_nothing_keeps_its_report() -> None:
    assert add_sent(aged(REPORT), []) is REPORT


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 2)), max_size=20), st.floats(0, 0.9))
def test_no_work_sent_since_the_report_is_forgotten(
    sends: list[tuple[float, float]], report_age_s: float
) -> None:
    sent = [SentWork("h800", units, is_interactive=False, age_s=age) for units, age in sends]
    pool = summarise_pool("h800", [aged(OTHER, report_age_s)], sent)
    assert pool.backlog_units >= sum(units for units, age in sends if age <= report_age_s)


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, GONE_AFTER_S)), max_size=20),
    st.lists(st.floats(0, 2 * GONE_AFTER_S), max_size=3),
)
def test_what_every_report_tells_of_need_not_be_known(
    sends: list[tuple[float, float]], report_ages_s: list[float]
) -> None:
    reports = [
        aged(replace(OTHER, replica_id=str(index)), age_s)
        for index, age_s in enumerate(report_ages_s)
    ]
    sent = [SentWork("h800", units, is_interactive=True, age_s=age) for units, age in sends]
    recent = [work for work in sent if work.age_s < unreported_for_s("h800", reports)]
    assert summarise_pool("h800", reports, recent) == summarise_pool("h800", reports, sent)


def test_a_backlog_is_worked_off_while_nobody_tells() -> None:
    assert left_s(43.7, 0.25, [], 43.7) == pytest.approx(0.75)
    assert left_s(43.7, 2.0, [], 43.7) == 0.0


def test_what_came_on_top_is_worked_off_from_when_it_came() -> None:
    late = SentWork("h800", 43.7, is_interactive=True, age_s=0.5)
    # Idle from 1.0 s to 0.5 s ago.
    assert left_s(43.7, 2.0, [late], 43.7) == pytest.approx(0.5)
    # At work without a pause.
    assert left_s(4 * 43.7, 2.0, [late], 43.7) == pytest.approx(3.0)


def test_work_that_is_sent_while_its_report_is_on_the_way_counts_whole() -> None:
    sent = SentWork("h800", 43.7, is_interactive=True, age_s=0.11)
    assert left_s(0.0, 0.1, [sent], 43.7) == pytest.approx(0.9)


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 2)), max_size=20),
    st.floats(0, 100),
    st.floats(0, 2),
)
def test_a_wait_is_between_all_that_was_told_and_that_less_the_time_since(
    sends: list[tuple[float, float]], units: float, age_s: float
) -> None:
    sent = [SentWork("h800", units, is_interactive=False, age_s=age) for units, age in sends]
    whole_s = (units + sum(work.units for work in sent)) / 43.7
    assert whole_s - age_s - 1e-9 <= left_s(units, age_s, sent, 43.7) <= whole_s + 1e-9
