"""The ledger remembers the last report of everyone, and forgets the silent."""

from dataclasses import replace

from hand_clock import HandClock

from cluster.rates import guess_rate
from deployments.backlog import GONE_AFTER_S, SILENT_AFTER_S, ReplicaReport
from deployments.demand import AskedOfPool, DemandReport
from deployments.ledger import Ledger

REPORT = ReplicaReport(
    pool="h800",
    replica_id="a",
    sequence=1,
    backlog_units=3.0,
    interactive_backlog_units=3.0,
    max_backlog_units=512.0,
    rate=guess_rate(30.0),
)


def test_a_report_ages() -> None:
    clock = HandClock()
    ledger = Ledger(clock)
    ledger.report(REPORT)

    clock.advance(0.5)

    (aged,) = ledger.read().reports
    assert (aged.report, aged.age_s) == (REPORT, 0.5)


def test_a_report_that_was_overtaken_is_ignored() -> None:
    ledger = Ledger(HandClock())
    later = replace(REPORT, sequence=2, backlog_units=9.0)

    ledger.report(later)
    ledger.report(REPORT)

    assert [aged.report for aged in ledger.read().reports] == [later]


def test_a_replica_that_is_silent_is_forgotten() -> None:
    clock = HandClock()
    ledger = Ledger(clock)
    ledger.report(REPORT)

    clock.advance(GONE_AFTER_S + 1)

    assert ledger.read().reports == ()


def test_the_demand_of_a_router_that_was_replaced_is_soon_forgotten() -> None:
    clock = HandClock()
    ledger = Ledger(clock)
    ledger.ask([DemandReport("cards", "old", 1, AskedOfPool(3.0))])
    clock.advance(SILENT_AFTER_S + 1)

    view = ledger.ask([DemandReport("cards", "new", 1, AskedOfPool(3.0))])

    assert view.asked["cards"].arriving_units_per_s == 3.0


def test_the_demand_of_all_routers_is_summed() -> None:
    ledger = Ledger(HandClock())
    asked = AskedOfPool(arriving_units_per_s=2.0, refused_units_per_s=1.0)

    ledger.ask([DemandReport("h800", "router-1", 1, asked)])
    view = ledger.ask([DemandReport("h800", "router-2", 1, asked)])

    assert view.asked["h800"].arriving_units_per_s == 4.0
    assert view.asked["h800"].refused_units_per_s == 2.0
