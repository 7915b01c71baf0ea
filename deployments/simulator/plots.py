"""Pictures of an outcome. Needs matplotlib, which the extra `plan` brings."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployments.simulator.errors import PlanError
from deployments.simulator.outcome import Outcome

WINDOW_S = 10.0
"""Latencies and arrivals are summed up over so many seconds at least."""

MAX_WINDOWS = 120

KINDS = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")


def check_plot(path: Path) -> None:
    """Refuse a file that cannot be written, before what takes long.

    Raises:
        PlanError: If so, or if matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as exc:
        raise PlanError("a plot needs matplotlib: pip install 'zimage-serve[plan]'") from exc
    if path.suffix.lower() not in KINDS:
        raise PlanError(f"--plot must end with one of {', '.join(KINDS)}, got {path}")
    if path.is_dir():
        raise PlanError(f"--plot must be a file, got the folder {path}")
    if not path.parent.is_dir():
        raise PlanError(f"--plot must lie in a folder that exists, got {path}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PlanError(f"--plot must be writable, got {path}")


def save_plot(outcome: Outcome, path: Path, *, p95_s: float | None = None) -> None:
    """Draw load, latency, replicas and backlog over time into a file that `check_plot` took.

    Args:
        outcome: What to draw.
        path: The file to write.
        p95_s: A target to draw into the latencies.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 11), layout="constrained")
    FigureCanvasAgg(figure)
    load, latency, replicas, backlog = figure.subplots(4, 1, sharex=True)
    window_s = max(WINDOW_S, outcome.end_s / MAX_WINDOWS)
    begins = np.arange(0.0, max(outcome.trace.duration_s, window_s), window_s)
    answered, refused = _count(outcome, begins, window_s)
    load.step(begins, (answered + refused) / window_s, where="post", label="arriving")
    load.step(begins, refused / window_s, where="post", label="refused")
    load.set_ylabel("requests a second")
    for share in (50, 95):
        values = _percentiles(outcome, begins, window_s, share)
        latency.step(begins, values, where="post", label=f"p{share}")
    if p95_s is not None:
        latency.axhline(p95_s, linestyle="--", color="grey", label="target of p95")
    latency.set_ylabel("latency, s")
    for series in outcome.series:
        (line,) = replicas.plot(outcome.ticks_s, series.num_replicas, label=series.name)
        busy = _average(outcome, series.num_busy, begins, window_s)
        replicas.fill_between(begins, busy, step="post", alpha=0.3, color=line.get_color())
        backlog_s = _average(outcome, series.backlog_s, begins, window_s)
        backlog.step(begins, backlog_s, where="post", label=series.name)
    replicas.set_ylabel("replicas (filled: busy)")
    backlog.set_ylabel("backlog, s")
    backlog.set_xlabel("time, s")
    for axes in (load, latency, replicas, backlog):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figure.savefig(path, dpi=110)


def _count(
    outcome: Outcome, begins: NDArray[np.float64], window_s: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    edges = np.append(begins, begins[-1] + window_s)
    is_refused = np.isnan(outcome.latency_s)
    times = outcome.trace.times_s
    answered, _ = np.histogram(times[~is_refused], edges)
    refused, _ = np.histogram(times[is_refused], edges)
    return answered, refused


def _percentiles(
    outcome: Outcome,
    begins: NDArray[np.float64],
    window_s: float,
    share: float,
) -> list[float]:
    times, latency_s = outcome.trace.times_s, outcome.latency_s
    windows = []
    for begin in begins:
        of_window = latency_s[(times >= begin) & (times < begin + window_s)]
        numbers = of_window[~np.isnan(of_window)]
        windows.append(float(np.percentile(numbers, share)) if len(numbers) else float("nan"))
    return windows


def _average(
    outcome: Outcome, values: Sequence[float], begins: NDArray[np.float64], window_s: float
) -> NDArray[np.float64]:
    edges = np.append(begins, begins[-1] + window_s)
    sums, _ = np.histogram(outcome.ticks_s, edges, weights=values)
    counts, _ = np.histogram(outcome.ticks_s, edges)
    return np.asarray(sums / np.maximum(counts, 1), dtype=np.float64)
