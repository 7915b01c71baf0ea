"""The ledger: what every replica holds and every router is asked for. Soft state, no Ray here.

It is rebuilt within a period after it dies, since everyone tells it anew what stands.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from deployments.backlog import (
    GONE_AFTER_S,
    SILENT_AFTER_S,
    AgedReport,
    PoolReports,
    ReplicaReport,
    is_newer,
    read_pools,
    valid_for_s,
)
from deployments.demand import AskedOfPool, DemandReport, sum_demand


@dataclass(frozen=True)
class LedgerView:
    """The whole ledger at one moment."""

    reports: tuple[AgedReport, ...] = ()
    asked: dict[str, AskedOfPool] = field(default_factory=dict)
    """By pool, summed over routers."""

    def pool(self, name: str) -> PoolReports:
        """Return the reports of one pool, which are none if it has no replica."""
        return self._pools.get(name, _NO_REPORTS)

    def age(self, seconds: float) -> "LedgerView":
        """Return the same so much later, if nothing has been heard since."""
        reports = tuple(AgedReport(aged.report, aged.age_s + seconds) for aged in self.reports)
        return LedgerView(reports, self.asked)

    @cached_property
    def valid_for_s(self) -> float:
        """For how long no replica falls silent, so that sums over pools hold."""
        return valid_for_s(self.reports)

    @cached_property
    def _pools(self) -> dict[str, PoolReports]:
        return read_pools(self.reports)


_NO_REPORTS: Final = PoolReports()


class Ledger:
    """Keeps the last report of everyone, for as long as they report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[ReplicaReport, float]] = {}
        self._demand: dict[tuple[str, str], tuple[DemandReport, float]] = {}

    def report(self, report: ReplicaReport) -> None:
        """Take a replica's report, unless a later one came first."""
        known = self._reports.get(report.replica_id)
        if is_newer(report, known[0] if known else None):
            self._reports[report.replica_id] = (report, self._clock())

    def ask(self, demand: Sequence[DemandReport]) -> LedgerView:
        """Take what a router is asked for, and return what is known."""
        now_s = self._clock()
        for report in demand:
            self._demand[report.pool, report.router_id] = (report, now_s)
        return self.read()

    def read(self) -> LedgerView:
        """Return what is known; whoever has been silent for long is forgotten.

        A router sooner than a replica: what it was asked for is asked of its successor meanwhile.
        """
        now_s = self._clock()
        self._reports = {
            replica: (report, at_s)
            for replica, (report, at_s) in self._reports.items()
            if now_s - at_s <= GONE_AFTER_S
        }
        self._demand = {
            key: (report, at_s)
            for key, (report, at_s) in self._demand.items()
            if now_s - at_s <= SILENT_AFTER_S
        }
        demand = [report for report, _ in self._demand.values()]
        return LedgerView(
            reports=tuple(
                AgedReport(report, now_s - at_s) for report, at_s in self._reports.values()
            ),
            asked={
                pool: sum_demand(report for report in demand if report.pool == pool)
                for pool in {report.pool for report in demand}
            },
        )
