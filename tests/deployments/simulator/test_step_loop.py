from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.simulator.plans import CPU_SHARING
from deployments.simulator.step_loop import HeldPart, StepLoop, choose_step, share_overheads
from pipeline.request import Priority


def part(
    request: int,
    *,
    num_forwards: int = 8,
    forward_units: float = 1.0,
    forward_s: float = 0.1,
    due_s: float = 10.0,
    is_batch: bool = False,
    num_rows: int = 96,
    overhead_s: float = 0.0,
) -> HeldPart:
    return HeldPart(
        request,
        num_forwards,
        forward_units,
        forward_s,
        due_s,
        is_batch=is_batch,
        num_rows=num_rows,
        overhead_s=overhead_s,
    )


def run_out(loop: StepLoop, next_s: float) -> list[tuple[int, float]]:
    done = []
    while loop.held:
        finished = loop.finish()
        done += [(finished.request, round(next_s, 6))] if finished is not None else []
        next_s = loop.go_on() if loop.held else next_s
    return done


def test_a_request_alone_takes_its_own_time() -> None:
    loop = StepLoop(8.0)
    assert run_out(loop, loop.add(part(1), 5.0)) == [(1, 5.8)]


def test_small_requests_share_every_step() -> None:
    loop = StepLoop(8.0)
    loop.add(part(1), 0.0)
    assert run_out(loop, loop.add(part(2), 0.4)) == [(1, 1.2), (2, 1.6)]


def test_small_requests_pay_the_overhead_of_a_forward_once() -> None:
    loop = StepLoop(8.0, CPU_SHARING)
    loop.add(part(1, overhead_s=0.02), 0.0)
    next_s = loop.add(part(2, overhead_s=0.03), 0.0)
    assert run_out(loop, next_s) == [(1, 1.44), (2, 1.44)]
    assert loop.take_saved_s() == pytest.approx((8 * 0.02, 0.0))


def test_what_leaves_its_company_pays_its_own_overhead_again() -> None:
    loop = StepLoop(8.0, CPU_SHARING)
    loop.add(part(1, num_forwards=1, overhead_s=0.02), 0.0)
    next_s = loop.add(part(2, num_forwards=2, overhead_s=0.02), 0.0)
    assert run_out(loop, next_s) == [(1, 0.18), (2, 0.28)]


def test_a_request_that_fills_the_device_saves_nobody_its_overhead() -> None:
    loop = StepLoop(8.0, CPU_SHARING)
    loop.add(part(1, overhead_s=0.02, num_rows=512), 0.0)
    next_s = loop.add(part(2, overhead_s=0.02), 0.0)
    assert run_out(loop, next_s) == [(1, 1.6), (2, 1.6)]


def test_a_forward_is_shared_up_to_its_most_rows() -> None:
    parts = [part(number, overhead_s=0.03, num_rows=400) for number in range(3)]
    share_overheads(parts, CPU_SHARING)
    assert [each.step_saved_s for each in parts] == pytest.approx([0.015, 0.015, 0.0])


def test_requests_too_large_for_one_step_run_one_after_another() -> None:
    loop = StepLoop(8.0)
    loop.add(part(1, forward_units=4.3), 0.0)
    assert run_out(loop, loop.add(part(2, forward_units=4.3), 0.4)) == [(1, 0.8), (2, 1.6)]


def test_interactive_work_pauses_batch_work() -> None:
    loop = StepLoop(8.0)
    loop.add(part(1, forward_units=8.0, is_batch=True), 0.0)
    assert run_out(loop, loop.add(part(2, forward_units=8.0), 0.4)) == [(2, 1.2), (1, 1.6)]


def test_a_request_that_is_due_sooner_overtakes() -> None:
    loop = StepLoop(8.0)
    loop.add(part(1, forward_units=24.7, forward_s=0.5, due_s=18.0), 0.0)
    assert run_out(loop, loop.add(part(2, due_s=3.6), 0.5)) == [(2, 1.3), (1, 4.8)]


def test_who_comes_while_a_step_runs_joins_the_next_one() -> None:
    loop = StepLoop(8.0)
    loop.add(part(1, num_forwards=2, forward_units=24.7, forward_s=1.0, is_batch=True), 0.0)
    assert run_out(loop, loop.add(part(2, num_forwards=1), 0.3)) == [(2, 1.1), (1, 2.1)]


def test_who_was_passed_over_too_often_has_a_turn() -> None:
    loop = StepLoop(8.0)
    loop.add(part(1, num_forwards=1, forward_units=8.0, is_batch=True), 0.0)
    loop.add(part(2, num_forwards=40, forward_units=8.0), 0.0)
    done = dict(run_out(loop, loop.go_on()))
    assert done[1] == pytest.approx(1.9)
    assert done[2] == pytest.approx(4.1)


PARTS = st.tuples(
    st.floats(0, 5), st.integers(1, 12), st.sampled_from([0.25, 1.0, 4.3, 24.7]), st.booleans()
)


@given(st.lists(PARTS, min_size=1, max_size=12))
def test_a_replica_is_busy_exactly_as_long_as_its_work(
    drawn: list[tuple[float, int, float, bool]],
) -> None:
    arrivals = sorted((arrival, index) for index, (arrival, *_) in enumerate(drawn))
    loop = StepLoop(8.0)
    next_s = float("inf")
    free_s = 0.0
    finished: list[float] = []
    for arrival_s, index in arrivals:
        while next_s <= arrival_s:
            finished += [next_s] if loop.finish() is not None else []
            next_s = loop.go_on() if loop.held else float("inf")
        _, num_forwards, units, is_batch = drawn[index]
        free_s = max(free_s, arrival_s) + num_forwards * units * 0.1
        added = part(
            index,
            num_forwards=num_forwards,
            forward_units=units,
            forward_s=0.1 * units,
            due_s=arrival_s + num_forwards * units,
            is_batch=is_batch,
        )
        next_s = loop.add(added, arrival_s)
    finished += [now_s for _, now_s in run_out(loop, next_s)]
    assert len(finished) == len(drawn)
    assert finished[-1] == pytest.approx(free_s, abs=1e-5)


@given(st.lists(PARTS, min_size=1, max_size=10))
def test_a_step_is_shared_as_the_engine_shares_it(
    drawn: list[tuple[float, int, float, bool]],
) -> None:
    batching = pytest.importorskip("pipeline.denoising.batching")
    parts = [
        part(index, forward_units=units, due_s=due_s, is_batch=is_batch)
        for index, (due_s, _, units, is_batch) in enumerate(drawn)
    ]
    candidates = [
        batching.Candidate(
            id=str(each.request),
            step_units=each.forward_units,
            priority=Priority.BATCH if each.is_batch else Priority.INTERACTIVE,
            due_s=each.rank[1],
            arrival=each.request,
        )
        for each in parts
    ]
    limits = batching.BatchingLimits()
    chosen = choose_step(sorted(parts, key=attrgetter("rank")), limits.step_units, 99)
    expected = batching.choose_batch(candidates, limits, steps_since_turn=99)
    assert [str(each.request) for each in chosen] == [each.id for each in expected]
