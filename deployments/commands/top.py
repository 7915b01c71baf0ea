"""`zimage-serve top`: pools, replicas, queues and rates in the terminal, each second."""

import argparse
import contextlib
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import httpx
from prometheus_client.samples import Sample

from deployments.exposition import ExpositionError, Snapshot, Window, parse_page
from deployments.simulator.arguments import to_argument
from deployments.simulator.rules import read_positive
from deployments.top_view import render_top

_WINDOW_S: Final = 30.0
"""Rates are over this long: Ray's exporters change every ten seconds."""
_TIMEOUT_S: Final = 2.0
_CLEAR: Final = "\x1b[H\x1b[2J"


def add_top_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "exporters",
        nargs="+",
        metavar="URL",
        help="Ray's exporter of each node, such as http://127.0.0.1:8080/metrics",
    )
    parser.add_argument(
        "--interval",
        type=to_argument(read_positive),
        default=1.0,
        metavar="S",
        help="seconds (%(default)s)",
    )
    parser.add_argument("--once", action="store_true", help="print one view and end")


def run_top(options: argparse.Namespace, print_line: Callable[[str], object]) -> int:
    """Show the view until Ctrl-C."""
    snapshots: deque[Snapshot] = deque()
    with httpx.Client(timeout=_TIMEOUT_S) as client, contextlib.suppress(KeyboardInterrupt):
        while True:
            samples, failures = _read_pages(client, options.exporters)
            if options.once and len(failures) == len(options.exporters):
                print_line("\n".join(failures))
                return 1
            window = _extend(snapshots, Snapshot.from_samples(samples, time.monotonic()))
            print_line(_to_screen([*render_top(window), *failures], is_once=options.once))
            if options.once:
                return 0
            time.sleep(options.interval)
    return 0


def _read_pages(client: httpx.Client, urls: Sequence[str]) -> tuple[list[Sample], list[str]]:
    """Return the samples of the pages that could be read, and a line for each that could not."""
    samples: list[Sample] = []
    failures: list[str] = []
    for url in urls:
        try:
            samples += parse_page(client.get(url).raise_for_status().text)
        except (httpx.HTTPError, httpx.InvalidURL, ExpositionError) as exc:
            failures.append(f"{url}: {type(exc).__name__}: {exc}")
    return samples, failures


def _extend(snapshots: deque[Snapshot], now: Snapshot) -> Window:
    snapshots.append(now)
    while now.at_s - snapshots[0].at_s > _WINDOW_S:
        snapshots.popleft()
    return Window(snapshots[0], now)


def _to_screen(lines: Sequence[str], *, is_once: bool) -> str:
    if is_once or not sys.stdout.isatty():
        return "\n".join(lines)
    rows = shutil.get_terminal_size().lines - 1
    return _CLEAR + "\n".join(lines[:rows])
