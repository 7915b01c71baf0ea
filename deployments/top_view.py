"""What `zimage-serve top` shows, out of two snapshots of the exporters. Pure."""

from collections.abc import Sequence
from typing import Final

from cluster.telemetry import (
    BACKLOG_UNITS,
    DEADLINES,
    PEAK_MEMORY,
    QUEUE_AGE,
    REQUESTS,
    STEP_BUSY,
    STEP_DURATION,
    STEP_REQUESTS,
    STEP_UNITS,
)
from deployments.exposition import Window
from deployments.ray_metrics import to_prometheus_name

_POOL_COLUMNS: Final = (
    "POOL",
    "REPLICAS",
    "BACKLOG",
    "OLDEST s",
    "STEPS/s",
    "UNITS/s",
    "BATCH",
    "BUSY %",
)
_REPLICA_COLUMNS: Final = ("REPLICA", "POOL", "BACKLOG", "OLDEST s")
_GIB: Final = 2**30


def render_top(window: Window) -> list[str]:
    """Return the lines of the view: calls, pools, replicas, GPU memory."""
    return [
        *_render_calls(window),
        "",
        *_to_table(_POOL_COLUMNS, _pool_rows(window)),
        "",
        *_to_table(_REPLICA_COLUMNS, _replica_rows(window)),
        *_render_memory(window),
    ]


def _render_calls(window: Window) -> list[str]:
    calls = window.rate_by(to_prometheus_name(REQUESTS), "outcome")
    ends = window.now.sum_by(to_prometheus_name(DEADLINES), "result")
    parts = [f"{outcome} {rate:.2f}/s" for outcome, rate in sorted(calls.items())]
    total = sum(ends.values())
    kept = f"{100 * ends.get('met', 0.0) / total:.1f} %" if total else "-"
    return [f"calls: {', '.join(parts) or 'none yet'}", f"deadlines met since the start: {kept}"]


def _pool_rows(window: Window) -> list[tuple[str, ...]]:
    now = window.now
    backlog_name, duration = to_prometheus_name(BACKLOG_UNITS), to_prometheus_name(STEP_DURATION)
    backlog = now.sum_by(backlog_name, "pool")
    oldest = now.max_by(to_prometheus_name(QUEUE_AGE), "pool")
    steps = window.rate_by(f"{duration}_count", "pool")
    busy = window.rate_by(to_prometheus_name(STEP_BUSY), "pool")
    items = window.rate_by(to_prometheus_name(STEP_REQUESTS), "pool")
    units = window.rate_by(to_prometheus_name(STEP_UNITS), "pool")
    rows: list[tuple[str, ...]] = []
    for pool in sorted(backlog):
        num_replicas = len(now.values_of(backlog_name, "replica", pool=pool))
        steps_per_s = steps.get(pool, 0.0)
        batch = f"{items[pool] / steps_per_s:.1f}" if steps_per_s else "-"
        rows.append(
            (
                pool,
                str(num_replicas),
                f"{backlog[pool]:.1f}",
                f"{oldest.get(pool, 0.0):.1f}",
                f"{steps_per_s:.1f}",
                f"{units.get(pool, 0.0):.1f}",
                batch,
                f"{100 * busy.get(pool, 0.0) / num_replicas:.0f}",
            )
        )
    return rows


def _replica_rows(window: Window) -> list[tuple[str, ...]]:
    name = to_prometheus_name(BACKLOG_UNITS)
    pools = window.now.values_of(name, "pool")
    return [
        (replica, pool, f"{backlog:.1f}", f"{_oldest(window, replica):.1f}")
        for pool in sorted(pools)
        for replica, backlog in sorted(window.now.sum_by(name, "replica", pool=pool).items())
    ]


def _oldest(window: Window, replica: str) -> float:
    ages = window.now.max_by(to_prometheus_name(QUEUE_AGE), "replica")
    return ages.get(replica, 0.0)


def _render_memory(window: Window) -> list[str]:
    peaks = window.now.max_by(to_prometheus_name(PEAK_MEMORY), "stage")
    parts = [f"{stage} {peak / _GIB:.1f} GiB" for stage, peak in sorted(peaks.items())]
    return ["", f"GPU memory, peak of the last run: {', '.join(parts)}"] if parts else []


def _to_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [columns, *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in table
    ]
