"""Which replica of a pool takes a request."""

from collections.abc import Iterable
from math import inf
from typing import Final

from deployments.backlog import ReplicaReport, Size
from deployments.routing.decisions import Work
from pipeline.request import Priority

COLD_SIZE_S: Final = 5.0
"""What a size that a replica has not drawn may cost it: eager kernels, or a graph to record."""


def choose_replica(
    replicas: Iterable[ReplicaReport], work: Work, size: Size, priority: Priority
) -> ReplicaReport | None:
    """Choose the replica that would finish the work first, or None if all are full.

    A replica that has the size warm is taken before an idle one that has not, up to
    `COLD_SIZE_S` of wait.
    """
    is_interactive = priority is Priority.INTERACTIVE
    best, best_s = None, inf
    for replica in replicas:
        backlog = replica.backlog_units
        if backlog and backlog + work.units > replica.max_backlog_units:
            continue
        ahead = replica.interactive_backlog_units if is_interactive else backlog
        finish_s = ahead / replica.rate.overall.units_per_s
        finish_s += replica.rate.estimate_s(work.units, work.num_forwards)
        if size not in replica.warm_sizes:
            finish_s += COLD_SIZE_S
        if finish_s < best_s:
            best, best_s = replica, finish_s
    return best
