"""What a roster remembers is bounded."""

import time

from pipeline.denoising.batching import BatchingLimits
from pipeline.denoising.roster import Roster
from pipeline.request import ImageSize


def test_the_sizes_that_were_drawn_last_are_remembered() -> None:
    roster = Roster(BatchingLimits(), time.monotonic)
    sizes = [ImageSize(64, 16 * side) for side in range(4, 604)]

    for size in (*sizes, *sizes[-300:], sizes[0]):
        roster.measure([size], 1.0, 0.5)

    backlog = roster.backlog()
    assert len(backlog.warm_sizes) == 256
    assert backlog.warm_sizes >= {sizes[0], *sizes[-255:]}
    assert backlog.forward_times.keys() <= backlog.warm_sizes
