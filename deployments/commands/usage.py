"""`zimage-serve usage`: what was drawn for whom, out of exported records."""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from cluster.errors import TelemetryError
from cluster.usage import Price, UsageTotal, count_usage, read_records
from deployments.commands.failure import tell_failure
from deployments.config_file import ConfigurationError, load_config

_COLUMNS: Final = ("key", "day", "model", "calls", "drawn", "images", "units", "device s")


def add_usage_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="exported records, a line each"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a YAML file with usage.price")
    parser.add_argument("--json", action="store_true", help="print a line of JSON a group")


def run_usage(options: argparse.Namespace, print_line: Callable[[str], object]) -> int:
    """Print sums by key, day and model; each id counts once, however often it was exported."""
    try:
        price = Price(**load_config(options.config, os.environ).usage.price.model_dump())
        totals = count_usage(read_records(options.files), price)
    except (ConfigurationError, TelemetryError, OSError) as exc:
        tell_failure(exc)
        return 1
    lines = _to_json(totals, price) if options.json else _to_table(totals, price)
    for line in lines:
        print_line(line)
    return 0


def _to_json(totals: Sequence[UsageTotal], price: Price) -> list[str]:
    return [json.dumps({**asdict(total), "currency": price.currency}) for total in totals]


def _to_table(totals: Sequence[UsageTotal], price: Price) -> list[str]:
    rows = [(*_COLUMNS, price.currency), *(_to_row(total) for total in totals)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(_pad(row, widths)).rstrip() for row in rows]


def _to_row(total: UsageTotal) -> tuple[str, ...]:
    return (
        total.key_id,
        total.day,
        total.model,
        str(total.num_calls),
        str(total.num_succeeded),
        str(total.num_images),
        f"{total.cost_units:.1f}",
        f"{total.device_ms / 1000:.1f}",
        f"{total.charge:.4f}",
    )


def _pad(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    names, numbers = row[:3], row[3:]
    return [
        *(name.ljust(width) for name, width in zip(names, widths[:3], strict=True)),
        *(number.rjust(width) for number, width in zip(numbers, widths[3:], strict=True)),
    ]
