"""The sizing table of k8s/README.md: GPU pods by load, as `zimage-serve plan` finds them.

python tests/benchmarks/sizing.py
"""

import argparse
from collections.abc import Iterator
from typing import Final

from deployments.simulator.arguments import add_plan_arguments, build_plan, build_trace
from deployments.simulator.search import Mix, Target, search_mix

RATES: Final = (0.5, 2.0, 8.0)
OFFERS: Final = (
    ("H800:bf16", 3),
    ("H800:fp8", 3),
    ("GeForce-RTX-4080:bf16", 20),
    ("GeForce-RTX-4060-Ti:bf16", 40),
)
"""A kind of card, and the 95th percentile in seconds that is asked of it."""
COMMAND: Final = "--size 1024x1024"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for line in table():
        print(line)


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| `RATE` | `OFFER` | `P95` | pods | busy | p95 | $ an hour |"
    yield "|---|---|---|---|---|---|---|"
    for rate in RATES:
        for offer, p95_s in OFFERS:
            yield _row(rate, offer, p95_s)


def _row(rate: float, offer: str, p95_s: int) -> str:
    mix = _search(f"{COMMAND} --rate {rate:g} --p95 {p95_s} --offer {offer}")
    (num_pods,) = mix.counts.values()
    report = mix.report
    return (
        f"| {rate:g} | `{offer}` | {p95_s} | {num_pods} | {report.utilization:.0%} | "
        f"{report.p95_s:.1f} s | {mix.price_per_hour:.2f} |"
    )


def _search(words: str) -> Mix:
    parser = argparse.ArgumentParser()
    add_plan_arguments(parser)
    options = parser.parse_args(words.split())
    trace = build_trace(options)
    target = Target(options.p95, options.within)
    return search_mix(build_plan(options, trace), trace, target, lambda line: None)


if __name__ == "__main__":
    main()
