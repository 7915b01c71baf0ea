"""Latency of a mixed cluster at steady load while its processes are killed one after another.

    python tests/benchmarks/faults.py [--requests 300] [--interval 1.0]

Every deployment, the ledger, the proxy, the controller and a worker node are killed once, evenly
over the load. A call is tried again under its `Idempotency-Key`, and its latency is from the first
try to the picture.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from fault_load import report_lines
from mixed_faults import draw_undisturbed, run_faults, run_mixed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between requests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, run_mixed(Path(folder), {}) as service:
        undisturbed = draw_undisturbed(service)
        run = run_faults(service, options.requests, interval_s=options.interval)
    wrong = [
        call
        for call in run.calls
        if call.pixels != undisturbed[call.order.size, call.path, call.order.seed]
    ]
    for line in report_lines(run):
        print(line)
    print(f"{len(run.calls)} of {options.requests} drawn, {len(wrong)} wrong")


if __name__ == "__main__":
    main()
