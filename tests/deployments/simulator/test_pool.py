from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.routing.pools import share_of_mean_wait
from deployments.simulator.plans import CPU_SHARING
from deployments.simulator.pool import SimulatedPool
from deployments.simulator.replica import SimulatedReplica
from deployments.simulator.step_loop import HeldPart
from pipeline.request import Priority
from tests.deployments.simulator.plans import BIG_UNITS_PER_S, big_pool


def left_s(replica: SimulatedReplica, now_s: float, *, is_batch: bool) -> float:
    """Return how long a replica takes for what it holds, as far as a request would wait for it."""
    if is_batch:
        return replica.free_s - now_s if replica.loop.held else 0.0
    return max(0.0, replica.interactive_free_s - now_s) if replica.num_interactive else 0.0


@given(
    st.lists(
        st.tuples(st.floats(0.1, 9.0), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40
    ),
    st.sampled_from(list(Priority)),
)
def test_the_replica_found_is_one_that_is_free_first(
    works: list[tuple[float, bool, int]], priority: Priority
) -> None:
    pool = SimulatedPool(big_pool(4, 4))
    for _ in range(4):
        pool.join_warm(0.0)
    for request, (own_s, is_batch, place) in enumerate(works):
        replica = pool.replicas[place]
        pool.charge(replica, own_s, 0.0, is_batch=is_batch)
        replica.loop.add(HeldPart(request, 1, 1.0, own_s, 1.0, is_batch=is_batch), 0.0)
    is_batch = priority is Priority.BATCH
    found = pool.find_least_loaded(is_batch=is_batch)
    assert found is not None
    least_s = min(left_s(replica, 0.0, is_batch=is_batch) for replica in pool.replicas)
    assert abs(left_s(found, 0.0, is_batch=is_batch) - least_s) < 1e-6


@given(st.lists(st.tuples(st.floats(0.1, 9.0), st.integers(0, 3)), max_size=30))
def test_the_backlog_of_a_pool_is_the_sum_of_its_replicas(works: list[tuple[float, int]]) -> None:
    pool = SimulatedPool(big_pool(4, 4))
    for _ in range(4):
        pool.join_warm(0.0)
    for request, (own_s, place) in enumerate(works):
        replica = pool.replicas[place]
        pool.charge(replica, own_s, 0.0, is_batch=False)
        replica.loop.add(HeldPart(request, 1, 1.0, own_s, 1.0, is_batch=False), 0.0)
    pool.refresh(0.05, is_least_loaded=False)
    held_s = sum(left_s(replica, 0.05, is_batch=True) for replica in pool.replicas)
    held = held_s * BIG_UNITS_PER_S
    assert abs(pool.backlog_units - held) < 1e-6
    share = share_of_mean_wait(4, pool.num_idle_replicas)
    assert abs(4 * pool.wait_s * BIG_UNITS_PER_S - share * held) < 1e-6
    assert abs(pool.interactive_wait_s - pool.wait_s) < 1e-6


def test_a_replica_that_is_retired_leaves_when_its_work_is_done() -> None:
    pool = SimulatedPool(big_pool(1, 1))
    pool.join_warm(0.0)
    replica = pool.replicas[0]
    pool.charge(replica, 5.0, 0.0, is_batch=False)
    replica.loop.add(HeldPart(0, 1, 1.0, 5.0, 9.0, is_batch=False), 0.0)
    pool.retire(1.0)
    assert (pool.num_replicas, pool.paid_s) == (0, 0.0)
    replica.loop.finish()
    pool.release(replica, 5.0, is_batch=False)
    assert pool.paid_s == 5.0


def test_a_replica_that_has_not_started_is_retired_first() -> None:
    pool = SimulatedPool(big_pool(1, 2))
    pool.join_warm(0.0)
    pool.start(10.0)
    pool.retire(14.0)
    assert (pool.num_replicas, len(pool.starting), pool.paid_s) == (1, 0, 4.0)


def test_a_backlog_does_not_keep_what_shared_forwards_saved() -> None:
    pool = SimulatedPool(replace(big_pool(1, 1), sharing=CPU_SHARING))
    pool.join_warm(0.0)
    replica = pool.replicas[0]
    next_s = 0.0
    for request, num_forwards in enumerate((10, 20)):
        pool.charge(replica, 0.1 * num_forwards, 0.0, is_batch=False)
        held = HeldPart(
            request, num_forwards, 1.0, 0.1, 9.0, is_batch=False, num_rows=96, overhead_s=0.02
        )
        next_s = replica.loop.add(held, 0.0)
    assert next_s == pytest.approx(1.8)
    replica.loop.finish()
    pool.settle(replica)
    pool.release(replica, next_s, is_batch=False)
    pool.refresh(next_s)
    assert pool.backlog_units == pytest.approx(1.0 * BIG_UNITS_PER_S)
    assert pool.interactive_wait_s == pytest.approx(1.0)
    assert pool.busy_s == pytest.approx(2.8)
