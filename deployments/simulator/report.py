"""What an outcome comes to, in numbers and in lines of text."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deployments.simulator.outcome import Outcome, PartBill

WINDOW_S: Final = 60.0
MIN_IN_WINDOW: Final = 20
"""A percentile of fewer requests says nothing."""


@dataclass(frozen=True)
class Report:
    """A simulation, summed up."""

    num_requests: int
    num_refused: int
    p50_s: float
    p95_s: float
    p99_s: float
    worst_p95_s: float
    """Of the minute of arrivals that fared worst."""
    attainment: float
    """Share of all requests that were answered within their deadline."""
    p95_by_size: dict[str, float]
    share_by_pool: dict[str, float]
    bills: tuple[PartBill, ...]
    hours: float
    estimate_error: float
    """Median of how far the prediction was off, of those that were predicted."""

    @property
    def utilization(self) -> float:
        """Share of the denoisers' paid capacity that was busy."""
        paid = sum(bill.paid_s * bill.units_per_s for bill in self.bills)
        busy = sum(bill.busy_s * bill.units_per_s for bill in self.bills)
        return busy / paid if paid else 0.0

    @property
    def gpu_hours(self) -> float:
        """Of all parts together."""
        return sum(bill.paid_s for bill in self.bills) / 3600

    @property
    def cost(self) -> float:
        """Of the whole simulated time."""
        return sum(bill.cost for bill in self.bills)

    @property
    def cost_per_hour(self) -> float:
        """Its mean."""
        return self.cost / self.hours if self.hours else 0.0

    @property
    def cost_per_thousand(self) -> float:
        """Of a thousand answered pictures."""
        return 1000 * self.cost / max(1, self.num_requests - self.num_refused)


def summarise(outcome: Outcome) -> Report:
    """Sum an outcome up."""
    latency_s, trace = outcome.latency_s, outcome.trace
    answered = ~np.isnan(latency_s)
    timeouts = [np.inf if facts.timeout_s is None else facts.timeout_s for facts in trace.kinds]
    allowed_s = np.array(timeouts)[trace.kind_of]
    in_time = answered & (np.nan_to_num(latency_s, nan=np.inf) <= allowed_s)
    p50, p95, p99 = (percentile(latency_s, share) for share in (50, 95, 99))
    return Report(
        num_requests=len(trace),
        num_refused=int((~answered).sum()),
        p50_s=p50,
        p95_s=p95,
        p99_s=p99,
        worst_p95_s=_worst_p95(outcome),
        attainment=float(in_time.mean()) if len(trace) else 1.0,
        p95_by_size=_p95_by_size(outcome),
        share_by_pool={
            name: float((outcome.pool_of == index).mean())
            for index, name in enumerate(outcome.pool_names)
        },
        bills=tuple(outcome.bills),
        hours=outcome.end_s / 3600,
        estimate_error=percentile(np.abs(outcome.estimate_s / latency_s - 1), 50),
    )


def percentile(values: NDArray[np.float64], share: float) -> float:
    """Return a percentile of what is a number, or infinity if nothing is."""
    numbers = values[~np.isnan(values)]
    return float(np.percentile(numbers, share)) if len(numbers) else float("inf")


def _worst_p95(outcome: Outcome) -> float:
    minute_of = (outcome.trace.times_s // WINDOW_S).astype(np.int64)
    edges = np.searchsorted(minute_of, np.arange(minute_of[-1] + 2))
    windows = [
        outcome.latency_s[begin:end]
        for begin, end in pairwise(edges)
        if end - begin >= MIN_IN_WINDOW
    ]
    return max(
        (percentile(each, 95) for each in windows), default=percentile(outcome.latency_s, 95)
    )


def _p95_by_size(outcome: Outcome) -> dict[str, float]:
    sizes = [f"{facts.width}x{facts.height}" for facts in outcome.trace.kinds]
    size_of = np.array([sorted(set(sizes)).index(size) for size in sizes])[outcome.trace.kind_of]
    return {
        size: percentile(outcome.latency_s[size_of == index], 95)
        for index, size in enumerate(sorted(set(sizes)))
    }


def format_report(report: Report) -> Iterator[str]:
    """Say it in lines."""
    yield (
        f"{report.num_requests:,} requests in {report.hours * 60:.1f} min, "
        f"{report.num_refused:,} refused; "
        f"p50 {report.p50_s:.2f} s, p95 {report.p95_s:.2f} s "
        f"(worst minute {report.worst_p95_s:.2f} s), p99 {report.p99_s:.2f} s; "
        f"{report.attainment:.2%} within deadline; predictions off by "
        f"{report.estimate_error:.1%} at the median"
    )
    by_size = ", ".join(f"{size} {p95:.2f} s" for size, p95 in report.p95_by_size.items())
    yield f"p95 by size: {by_size}"
    yield f"{'part':<30} {'requests':>9} {'GPU hours':>10} {'used':>6} {'cost':>10}"
    for bill in report.bills:
        share = report.share_by_pool.get(bill.name, 1.0)
        yield (
            f"{bill.name:<30} {share:>9.1%} {bill.paid_s / 3600:>10.1f} "
            f"{bill.utilization:>6.0%} {bill.cost:>10.2f}"
        )
    yield (
        f"cost {report.cost_per_hour:,.2f} an hour, "
        f"{report.cost_per_thousand:.3f} a thousand pictures, {report.gpu_hours:,.1f} GPU hours"
    )
