"""What the ledger holds: each replica's last report, how old it is, and the sums over a pool.

Pure data: ages are in seconds and no clock is read here. A report says what a replica knew when it
was made; what a router has sent since is added by the router that sent it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Final

from cluster.rates import ReplicaRate, typical_rate

REPORT_PERIOD_S: Final = 0.25
STALE_AFTER_S: Final = 4 * REPORT_PERIOD_S
"""A report this old is not believed where a fresh one is to be had."""
SILENT_AFTER_S: Final = 5.0
"""A pool that has been silent this long has no replica, if others are heard."""
GONE_AFTER_S: Final = 30.0
"""A replica that has been silent this long is dropped."""
TRANSIT_S: Final = 0.02
"""What was sent this much before a report was made may not have arrived yet: it counts twice
rather than never."""


@dataclass(frozen=True)
class ReplicaReport:
    """What a denoiser replica tells the ledger every `REPORT_PERIOD_S`."""

    pool: str
    replica_id: str
    sequence: int
    """Grows with every report, so that one that was overtaken on its way is known."""
    backlog_units: float
    """Of all the steps that are left, running and waiting."""
    interactive_backlog_units: float
    max_backlog_units: float
    """Beyond this it refuses."""
    rate: ReplicaRate
    is_healthy: bool = True
    is_draining: bool = False
    fingerprint: str = ""
    """Of its pictures; empty if it does not say."""


@dataclass(frozen=True)
class AgedReport:
    """A report as a router sees it."""

    report: ReplicaReport
    age_s: float
    """Its age in the ledger when read, and the time since."""

    @property
    def is_stale(self) -> bool:
        """Whether the replica has missed several periods."""
        return self.age_s > STALE_AFTER_S

    @property
    def is_gone(self) -> bool:
        """Whether the replica is taken for dead."""
        return self.age_s > GONE_AFTER_S


@dataclass(frozen=True)
class SentWork:
    """What a router itself has sent to a pool. Ray chose the replica, so it may be on any."""

    units: float
    is_interactive: bool
    age_s: float
    """0 of what is still in the router, which no report can tell of."""
    num_requests: float = 1


@dataclass(frozen=True)
class PoolBacklog:
    """The sums over the replicas of one pool that take work."""

    num_replicas: int = 0
    num_idle_replicas: float = 0.0
    """As many as may be expected, since what was sent lately may be on any of them."""
    num_stale: int = 0
    num_unhealthy: int = 0
    backlog_units: float = 0.0
    interactive_backlog_units: float = 0.0
    max_backlog_units: float = 0.0
    units_per_s: float = 0.0
    wait_s: float = 0.0
    """Until its replicas together have done what is left of it; infinite where there is none."""
    interactive_wait_s: float = 0.0

    @property
    def is_healthy(self) -> bool:
        """False if replicas are there and none of them is healthy; an empty pool is only cold."""
        return self.num_replicas > 0 or self.num_unhealthy == 0


@dataclass(frozen=True)
class PoolReports:
    """The reports of one pool, summed once for every choice until the next ones come.

    It holds for as long as nobody falls silent meanwhile: see `valid_for_s`.
    """

    takers: tuple[AgedReport, ...] = ()
    """Of the replicas that take work."""
    num_stale: int = 0
    num_unhealthy: int = 0

    def to_backlog(self, sent: Sequence[SentWork] = (), *, after_s: float = 0.0) -> PoolBacklog:
        """Return how the pool stands.

        Args:
            sent: What came on top, as far as it is known; what all reports tell of counts nothing.
            after_s: How long ago the reports had the ages that they have here.
        """
        since = [
            SentWork(share * work.units, work.is_interactive, work.age_s, share * work.num_requests)
            for work in sent
            if (share := self._unreported_share(work.age_s - after_s))
        ]
        num_sent = sum(work.num_requests for work in since)
        interactive = [work for work in since if work.is_interactive]
        units, interactive_units, max_units, units_per_s = self._sums
        age_s = self._mean_age_s + after_s
        return PoolBacklog(
            num_replicas=len(self.takers),
            num_idle_replicas=max(0.0, bisect_right(self._idle_after_s, after_s) - num_sent),
            num_stale=self.num_stale,
            num_unhealthy=self.num_unhealthy,
            backlog_units=units + _sum_units(since),
            interactive_backlog_units=interactive_units + _sum_units(interactive),
            max_backlog_units=max_units,
            units_per_s=units_per_s,
            wait_s=left_s(units, age_s, since, units_per_s),
            interactive_wait_s=left_s(interactive_units, age_s, interactive, units_per_s),
        )

    @property
    def unreported_for_s(self) -> float:
        """For how long what is sent to the pool may be in no report."""
        return (self._ages_s[-1] if self.takers else GONE_AFTER_S) + TRANSIT_S

    def typical_rate(self, guess: ReplicaRate) -> ReplicaRate:
        """Return the rate of one of its replicas, which is a guess where there is none."""
        return self._typical_rate or guess

    def _unreported_share(self, age_s: float) -> float:
        """Return the share of replicas whose report may not tell yet of what was sent so long ago.

        That is how much of it is to be added: where most reports are younger, they tell of it.
        """
        if not self.takers:
            return float(age_s < self.unreported_for_s)
        num_younger = bisect_right(self._ages_s, age_s - TRANSIT_S)
        return 1 - num_younger / len(self.takers)

    @cached_property
    def _typical_rate(self) -> ReplicaRate | None:
        rates = [aged.report.rate for aged in self.takers]
        return typical_rate(rates, rates[0]) if rates else None

    @cached_property
    def _ages_s(self) -> list[float]:
        return sorted(aged.age_s for aged in self.takers)

    @cached_property
    def _mean_age_s(self) -> float:
        return sum(self._ages_s) / max(1, len(self.takers))

    @cached_property
    def _idle_after_s(self) -> list[float]:
        """When each will have done what it told of."""
        return sorted(
            _seconds(aged.report.backlog_units, aged.report.rate.overall.units_per_s) - aged.age_s
            for aged in self.takers
        )

    @cached_property
    def _sums(self) -> tuple[float, float, float, float]:
        """Units held, interactive ones of them, the most it holds, and units a second."""
        told = [aged.report for aged in self.takers]
        return (
            sum(report.backlog_units for report in told),
            sum(report.interactive_backlog_units for report in told),
            sum(report.max_backlog_units for report in told),
            sum(report.rate.overall.units_per_s for report in told),
        )


def _seconds(units: float, units_per_s: float) -> float:
    if not units:
        return 0.0
    return units / units_per_s if units_per_s else inf


def _sum_units(sent: Iterable[SentWork]) -> float:
    return sum(work.units for work in sent)


def is_newer(report: ReplicaReport, known: ReplicaReport | None) -> bool:
    """Whether the report replaces what is known of its replica."""
    return known is None or report.sequence > known.sequence


def read_pools(reports: Sequence[AgedReport]) -> dict[str, PoolReports]:
    """Read the reports of every pool that has some, out of those of all."""
    is_ledger_heard = any(not aged.is_stale for aged in reports)
    by_pool: dict[str, list[AgedReport]] = {}
    for aged in reports:
        if not aged.is_gone:
            by_pool.setdefault(aged.report.pool, []).append(aged)
    return {
        pool: PoolReports(
            takers=tuple(find_takers(of_pool, is_ledger_heard=is_ledger_heard)),
            num_stale=sum(aged.is_stale for aged in of_pool),
            num_unhealthy=sum(not aged.report.is_healthy for aged in of_pool),
        )
        for pool, of_pool in by_pool.items()
    }


def valid_for_s(reports: Iterable[AgedReport]) -> float:
    """Return for how long reports can be read as they are: until one of them counts otherwise."""
    borders = (STALE_AFTER_S, SILENT_AFTER_S, GONE_AFTER_S)
    lefts = (border - aged.age_s for aged in reports for border in borders)
    return min((left for left in lefts if left >= 0), default=inf)


def find_takers(
    reports: Iterable[AgedReport], *, is_ledger_heard: bool = False
) -> list[AgedReport]:
    """Return the reports of replicas that take work.

    Stale ones are left out unless all are stale: then it is the ledger that is late, and what it
    last said is the best there is.

    Args:
        reports: Of one pool, or of all.
        is_ledger_heard: Whether others have reported lately, so that it is the replicas that
            are silent; a busy machine lets some be late for a moment.
    """
    present = [aged for aged in reports if not aged.is_gone and _takes_work(aged.report)]
    fresh = [aged for aged in present if not aged.is_stale]
    if fresh or not is_ledger_heard:
        return fresh or present
    return [aged for aged in present if aged.age_s <= SILENT_AFTER_S]


def _takes_work(report: ReplicaReport) -> bool:
    return report.is_healthy and not report.is_draining


def left_s(units: float, age_s: float, sent: Iterable[SentWork], units_per_s: float) -> float:
    """Return the seconds that are left of a backlog, whose owner went on working since.

    Args:
        units: What it was.
        age_s: When that was.
        sent: What came on top, each at its own time.
        units_per_s: How fast it is worked off; where nobody does, it is never done.
    """
    left, at_s = units, age_s
    for work in sorted(sent, key=lambda work: -work.age_s):
        since_s = min(work.age_s, at_s)
        left = max(0.0, left - units_per_s * (at_s - since_s)) + work.units
        at_s = since_s
    return _seconds(max(0.0, left - units_per_s * at_s), units_per_s)
