"""What a step loop holds, in the ledger's words. Pure."""

from cluster.cost import full_image_units
from cluster.rates import ReplicaRate, SmoothedRate, size_class
from deployments.backlog import ReplicaReport
from pipeline.denoising.roster import Backlog


def to_report(
    backlog: Backlog,
    *,
    pool: str,
    replica_id: str,
    sequence: int,
    guess: ReplicaRate,
    max_backlog_units: float,
    is_healthy: bool,
    fingerprint: str = "",
) -> ReplicaReport:
    """Build a report; until something was measured its rate is the accelerator type's guess."""
    return ReplicaReport(
        pool=pool,
        replica_id=replica_id,
        sequence=sequence,
        backlog_units=backlog.waiting_units + backlog.running_units,
        interactive_backlog_units=backlog.interactive_units,
        max_backlog_units=max_backlog_units,
        rate=to_rate(backlog, guess),
        is_healthy=is_healthy,
        fingerprint=fingerprint,
    )


def to_rate(backlog: Backlog, guess: ReplicaRate) -> ReplicaRate:
    """Express what was measured in the router's cost units.

    Small pictures make a GPU seem many times slower than large ones do, so what was measured of
    other sizes does not say more than the guess how long an unknown one keeps the replica.
    """
    if backlog.rate_units_s is None:
        return guess
    steps = sum(timing.num_steps for timing in backlog.forward_times.values())
    units_per_s = backlog.rate_units_s
    if backlog.holds_unknown:
        units_per_s = max(units_per_s, guess.overall.units_per_s)
    overall = SmoothedRate(units_per_s, max(1, steps), backlog.rate_trust)
    by_size: dict[int, SmoothedRate] = {}
    for size, timing in backlog.forward_times.items():
        units = full_image_units(size.height, size.width, 1)
        rate = SmoothedRate(units / timing.seconds, timing.num_steps, timing.trust)
        key = size_class(units, 1)
        if key not in by_size or by_size[key].num_reports < rate.num_reports:
            by_size[key] = rate
    return ReplicaRate(overall, by_size)
