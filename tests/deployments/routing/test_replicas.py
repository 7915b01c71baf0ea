from dataclasses import replace

from cluster.rates import guess_rate
from deployments.backlog import ReplicaReport
from deployments.routing.decisions import PassWork, Work
from deployments.routing.replicas import choose_replica
from pipeline.request import Priority

SIZE = (1024, 1024)
WORK = Work((PassWork(num_steps=8, num_tiles=1, tile_units=4.3125),))


def replica(
    replica_id: str, backlog_units: float = 0.0, units_per_s: float = 40.0
) -> ReplicaReport:
    return ReplicaReport(
        pool="h800",
        replica_id=replica_id,
        sequence=1,
        backlog_units=backlog_units,
        interactive_backlog_units=backlog_units,
        max_backlog_units=400.0,
        rate=guess_rate(units_per_s),
        warm_sizes=frozenset({SIZE}),
    )


def choose(*replicas: ReplicaReport, priority: Priority = Priority.INTERACTIVE) -> str | None:
    chosen = choose_replica(replicas, WORK, SIZE, priority)
    return chosen.replica_id if chosen else None


def test_the_replica_with_less_work_is_chosen_even_if_it_holds_more_requests() -> None:
    assert choose(replica("one 2048", 198.0), replica("five 512", 40.0)) == "five 512"


def test_a_faster_replica_is_worth_a_longer_queue() -> None:
    assert choose(replica("slow", 0.0, 10.0), replica("fast", 80.0, 80.0)) == "fast"


def test_a_replica_that_has_the_size_warm_is_taken_before_an_idle_one() -> None:
    unwarmed = replace(replica("idle"), warm_sizes=frozenset())
    assert choose(unwarmed, replica("warm", 100.0)) == "warm"


def test_an_idle_replica_is_taken_before_a_warm_one_with_a_long_queue() -> None:
    unwarmed = replace(replica("idle"), warm_sizes=frozenset())
    assert choose(unwarmed, replica("warm", 300.0)) == "idle"


def test_a_full_replica_is_passed_over() -> None:
    assert choose(replica("full", 390.0), replica("slow", 100.0, 1.0)) == "slow"


def test_where_all_are_full_none_is_chosen() -> None:
    assert choose(replica("full", 390.0)) is None


def test_interactive_work_looks_at_interactive_work_only() -> None:
    batch = replace(replica("batch", 300.0), interactive_backlog_units=0.0)
    mixed = replica("interactive", 100.0)
    assert choose(batch, mixed) == "batch"
    assert choose(batch, mixed, priority=Priority.BATCH) == "interactive"
