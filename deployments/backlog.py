"""What the ledger holds: each replica's last report, how old it is, and the sums over a pool.

Pure data: ages are in seconds and no clock is read here. A report says what a replica knew when it
was made; what a router has sent since is added by the router that sent it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from cluster.rates import ReplicaRate

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

Size = tuple[int, int]
"""Height and width in image pixels."""


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
    warm_sizes: frozenset[Size]
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
    """What a router itself has sent and cannot have read about yet."""

    pool: str
    units: float
    is_interactive: bool
    age_s: float
    replica_id: str | None = None
    """None where Ray's request router chose the replica."""


@dataclass(frozen=True)
class PoolBacklog:
    """The sums over the replicas of one pool that take work."""

    pool: str
    num_replicas: int = 0
    num_idle_replicas: int = 0
    num_stale: int = 0
    num_unhealthy: int = 0
    backlog_units: float = 0.0
    interactive_backlog_units: float = 0.0
    max_backlog_units: float = 0.0
    units_per_s: float = 0.0
    wait_s: float = 0.0
    """Until its replicas together have done what is left of it; infinite where there is none."""
    interactive_wait_s: float = 0.0
    least_wait_s: float = 0.0
    """Until the replica with the least work has done it."""
    least_interactive_wait_s: float = 0.0
    rates: tuple[ReplicaRate, ...] = ()
    """Of the replicas that take work."""

    @property
    def is_healthy(self) -> bool:
        """False if replicas are there and none of them is healthy; an empty pool is only cold."""
        return self.num_replicas > 0 or self.num_unhealthy == 0


def _seconds(units: float, units_per_s: float) -> float:
    if not units:
        return 0.0
    return units / units_per_s if units_per_s else inf


def is_newer(report: ReplicaReport, known: ReplicaReport | None) -> bool:
    """Whether the report replaces what is known of its replica."""
    return known is None or report.sequence > known.sequence


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


def add_sent(aged: AgedReport, sent: Iterable[SentWork]) -> ReplicaReport:
    """Return the report with what was sent to the replica since it was made."""
    report = aged.report
    since = [
        work
        for work in sent
        if work.replica_id == report.replica_id and _is_unreported(work, aged.age_s)
    ]
    if not since:
        return report
    return replace(
        report,
        backlog_units=report.backlog_units + _sum_units(since),
        interactive_backlog_units=report.interactive_backlog_units + _sum_interactive(since),
    )


def _is_unreported(work: SentWork, report_age_s: float) -> bool:
    return work.age_s < report_age_s + TRANSIT_S


def _sum_units(sent: Iterable[SentWork]) -> float:
    return sum(work.units for work in sent)


def _sum_interactive(sent: Iterable[SentWork]) -> float:
    return sum(work.units for work in sent if work.is_interactive)


def summarise_pool(
    pool: str, reports: Sequence[AgedReport], sent: Sequence[SentWork] = ()
) -> PoolBacklog:
    """Sum the reports of one pool, out of those of all, and what was sent to it since."""
    of_pool = [aged for aged in reports if aged.report.pool == pool and not aged.is_gone]
    takers = find_takers(of_pool, is_ledger_heard=_is_any_fresh(reports))
    since = _find_since(pool, takers, sent)
    charged = [add_sent(aged, since) for aged in takers]
    # What went to the pool by Ray's choice may be on any of them.
    adrift = [work for work in since if work.replica_id is None]
    units_per_s = sum(report.rate.overall.units_per_s for report in charged)
    is_lost = bool(since) and not takers
    told = [aged.report for aged in takers]
    interactive = [work for work in since if work.is_interactive]
    age_s = sum(aged.age_s for aged in takers) / max(1, len(takers))
    return PoolBacklog(
        pool=pool,
        num_replicas=len(takers),
        num_idle_replicas=max(0, sum(not r.backlog_units for r in charged) - len(adrift)),
        num_stale=sum(aged.is_stale for aged in of_pool),
        num_unhealthy=sum(not aged.report.is_healthy for aged in of_pool),
        backlog_units=sum(aged.report.backlog_units for aged in takers) + _sum_units(since),
        interactive_backlog_units=sum(aged.report.interactive_backlog_units for aged in takers)
        + _sum_interactive(since),
        max_backlog_units=sum(aged.report.max_backlog_units for aged in takers),
        units_per_s=units_per_s,
        wait_s=left_s(sum(r.backlog_units for r in told), age_s, since, units_per_s),
        interactive_wait_s=left_s(
            sum(r.interactive_backlog_units for r in told), age_s, interactive, units_per_s
        ),
        least_wait_s=inf if is_lost else _least_wait_s(charged, adrift, units_per_s),
        least_interactive_wait_s=(
            inf if is_lost else _least_interactive_wait_s(charged, adrift, units_per_s)
        ),
        rates=tuple(aged.report.rate for aged in takers),
    )


def unreported_for_s(pool: str, reports: Sequence[AgedReport]) -> float:
    """Return for how long what is sent to a pool may be in no report yet."""
    of_pool = [aged for aged in reports if aged.report.pool == pool]
    takers = find_takers(of_pool, is_ledger_heard=_is_any_fresh(reports))
    return max((aged.age_s for aged in takers), default=GONE_AFTER_S) + TRANSIT_S


def _is_any_fresh(reports: Iterable[AgedReport]) -> bool:
    return any(not aged.is_stale for aged in reports)


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


def _find_since(
    pool: str, takers: Sequence[AgedReport], sent: Sequence[SentWork]
) -> list[SentWork]:
    ages = {aged.report.replica_id: aged.age_s for aged in takers}
    oldest_s = max(ages.values(), default=GONE_AFTER_S)
    return [
        work
        for work in sent
        if work.pool == pool and _is_unreported(work, _age_for(work, ages, oldest_s))
    ]


def _least_wait_s(
    charged: Sequence[ReplicaReport], adrift: Sequence[SentWork], units_per_s: float
) -> float:
    waits = (_seconds(r.backlog_units, r.rate.overall.units_per_s) for r in charged)
    return min(waits, default=0.0) + _seconds(_sum_units(adrift), units_per_s)


def _least_interactive_wait_s(
    charged: Sequence[ReplicaReport], adrift: Sequence[SentWork], units_per_s: float
) -> float:
    waits = (_seconds(r.interactive_backlog_units, r.rate.overall.units_per_s) for r in charged)
    return min(waits, default=0.0) + _seconds(_sum_interactive(adrift), units_per_s)


def _age_for(work: SentWork, ages: dict[str, float], oldest_s: float) -> float:
    return oldest_s if work.replica_id is None else ages.get(work.replica_id, 0.0)
